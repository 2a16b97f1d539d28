// SPDX-License-Identifier: GPL-2.0-or-later
//! A server of MySQL itself, of the test program's own, which ends with it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::mariadb_server::{new_folder, run, spawn_command, wait_until_ready};

/// The socket of the server, which is started when it is first asked for.
pub fn socket() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(start)
}

fn start() -> PathBuf {
    let root = std::env::var_os("TRAFSTAT_TEST_MYSQL")
        .map(PathBuf::from)
        .expect("TRAFSTAT_TEST_MYSQL names no folder with MySQL: \"cargo xtask test --all\" does");
    let folder = new_folder("mysql");
    let data = folder.join("data");
    run(server(&root, &data).arg("--initialize-insecure"));
    let mut command = server(&root, &data);
    command
        .arg("--skip-networking")
        .arg("--mysqlx=OFF")
        // Its default is a folder of the package, which is not there.
        .arg("--secure-file-priv=NULL")
        // Off unless said, as on every server of MySQL's since 8.0.
        .arg("--local-infile=ON")
        .arg(format!("--tmpdir={}", folder.display()))
        .arg(format!("--socket={}", folder.join("s.sock").display()))
        .arg(format!("--pid-file={}", folder.join("pid").display()))
        .arg(format!("--log-error={}", folder.join("err.log").display()));
    spawn_command(&command);
    wait_until_ready(&folder);
    folder.join("s.sock")
}

/// The server of another Debian release, with the libraries of that release.
fn server(root: &Path, data: &Path) -> Command {
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(root.join("usr/sbin/mysqld"))
        .arg("--no-defaults")
        .arg(format!("--basedir={}", root.join("usr").display()))
        .arg(format!("--datadir={}", data.display()));
    // Another user could not look into a folder of root's.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.arg("--user=root");
    }
    command
}
