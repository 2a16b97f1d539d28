// SPDX-License-Identifier: GPL-2.0-or-later
//! A MariaDB server of the test program's own, which ends with it.

// Every test program uses its own part of this.
#![allow(dead_code)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use trafstat_store::backend::{MysqlHost, MysqlLogin, TlsMode};

/// The socket of the server, which is started when it is first asked for.
pub fn socket() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(start)
}

/// Makes a database of a name that no other has and that is as long as names may be, and
/// gives the name.
pub fn create_database(socket: &Path) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!(
        "{:_<64}",
        format!("trafstat_{}_{number}", std::process::id())
    );
    connect(socket, None)
        .query_drop(format!("CREATE DATABASE {name}"))
        .unwrap();
    name
}

pub fn connect(socket: &Path, database: Option<&str>) -> mysql::Conn {
    let options = mysql::OptsBuilder::new()
        .socket(Some(socket.to_str().unwrap()))
        .user(Some("root"))
        .db_name(database);
    mysql::Conn::new(options).unwrap()
}

pub fn login(socket: &Path, database: &str) -> MysqlLogin {
    MysqlLogin {
        hosts: vec![MysqlHost::Unix(socket.to_path_buf())],
        user: "root".to_owned(),
        password: None,
        database: database.to_owned(),
        tls: TlsMode::Disabled,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
        connect_timeout: Duration::from_secs(60),
        answer_timeout: Duration::from_secs(60),
    }
}

/// Where a program is that only servers have.
pub fn program(name: &str) -> PathBuf {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            panic!("{name} is not installed: \"cargo xtask test\" installs it, or apt-get install mariadb-server")
        })
}

/// A server as root runs as mysql, whom a folder of root's would be closed to.
pub fn user_options() -> Option<&'static str> {
    (fs::metadata("/proc/self").unwrap().uid() == 0).then_some("--user=mysql")
}

const PREFIX: &str = "trafstat-test-mariadb-";

/// A folder of this process, after those that earlier ones left were removed.
pub fn new_folder(suffix: &str) -> PathBuf {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = std::env::temp_dir().join(format!("{PREFIX}{}-{suffix}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    give_to_server(&folder);
    folder
}

/// Makes a folder that of the user as whom servers run.
pub fn give_to_server(folder: &Path) {
    if user_options().is_some() {
        run(Command::new("chown").arg("mysql:mysql").arg(folder));
    }
}

pub fn install(data: &Path) {
    let folder = data.parent().expect("a folder around the data");
    run(Command::new(program("mariadb-install-db"))
        // The server that it starts does as `spawn` says.
        .env("TMPDIR", folder)
        .args(["--no-defaults", "--skip-test-db"])
        .arg("--auth-root-authentication-method=normal")
        .args(user_options())
        .arg(format!("--datadir={}", data.display())));
}

/// Starts a server that the kernel ends with this process; gives its process id.
pub fn spawn(folder: &Path, options: &[String]) -> u32 {
    let mut command = Command::new(program("mariadbd"));
    command
        .arg("--no-defaults")
        .args(user_options())
        .arg(format!("--datadir={}", folder.join("data").display()))
        // A server that starts removes what another left in a common one, in use or not.
        .arg(format!("--tmpdir={}", folder.display()))
        .arg(format!("--socket={}", folder.join("s.sock").display()))
        .arg(format!("--pid-file={}", folder.join("pid").display()))
        .arg(format!("--log-error={}", folder.join("err.log").display()))
        .args(options);
    spawn_command(&command)
}

/// The same, of any server.
pub fn spawn_command(server: &Command) -> u32 {
    let mut command = Command::new("setpriv");
    // The kernel forgets the signal when a process changes its user, so that is done first.
    if server.get_args().any(|option| option == "--user=mysql") {
        command.args(["--reuid=mysql", "--regid=mysql", "--init-groups"]);
    }
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (sender, receiver) = std::sync::mpsc::channel();
    // The signal comes when the thread that started the server ends: this one stays.
    thread::spawn(move || {
        let mut child = command.spawn().unwrap();
        sender.send(child.id()).unwrap();
        child.wait().unwrap();
        loop {
            thread::park();
        }
    });
    receiver.recv().unwrap()
}

/// Waits until the server of a folder answers.
pub fn wait_until_ready(folder: &Path) {
    let socket = folder.join("s.sock");
    let begin = Instant::now();
    loop {
        let options = mysql::OptsBuilder::new()
            .socket(Some(socket.to_str().unwrap()))
            .user(Some("root"));
        match mysql::Conn::new(options) {
            Ok(_) => return,
            Err(error) if begin.elapsed() > Duration::from_secs(300) => {
                let log = fs::read_to_string(folder.join("err.log")).unwrap_or_default();
                panic!("the server does not answer: {error}\n{log}");
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A server that listens on a port of the loopback addresses, too.
pub struct NetworkServer {
    pub folder: PathBuf,
    pub port: u16,
}

impl NetworkServer {
    pub fn start(suffix: &str, options: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = new_folder(suffix);
        let mut options = options(&folder);
        install(&folder.join("data"));
        let port = free_port();
        options.extend([
            format!("--port={port}"),
            "--bind-address=127.0.0.1,127.0.0.2".to_owned(),
            "--skip-name-resolve".to_owned(),
        ]);
        spawn(&folder, &options);
        wait_until_ready(&folder);
        Self { folder, port }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("s.sock")
    }
}

/// A port at which nothing listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn start() -> PathBuf {
    let folder = new_folder("one");
    install(&folder.join("data"));
    spawn(&folder, &["--skip-networking".to_owned()]);
    wait_until_ready(&folder);
    folder.join("s.sock")
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
