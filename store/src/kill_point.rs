// SPDX-License-Identifier: GPL-2.0-or-later
//! Where a test may kill the program, to prove that nothing is lost or doubled.
//!
//! With the feature `kill-points`, `TRAFSTAT_STORE_KILL_AT` names the point at which
//! the process sends itself SIGKILL, which no handler or destructor can soften.
//! Without it, as in every release, a point is nothing.

/// A point between two steps of which a crash could do one without the other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KillPoint {
    /// All records are written, the transaction is open.
    BeforeCommit,
    /// All pieces are in the spool, its transaction is open.
    BeforeSpoolCommit,
    /// The store has the snapshot, and so has the spool.
    BeforeUnspool,
    /// The store or the spool has the snapshot, and so has the kernel.
    BeforeAck,
    /// The kernel has given the snapshot up.
    AfterAck,
    /// Half of an archive is written.
    WithinArchive,
    /// The archive is whole and has its name, and the database has all records still.
    BeforeDelete,
    /// The archived records are deleted, the transaction is open.
    BeforeDeleteCommit,
    /// Some records of a large epoch are deleted, and that is committed.
    WithinDeletion,
    /// Some sums of an account are restored, and that is committed.
    WithinRestore,
}

impl KillPoint {
    /// Goes on, unless the environment says that this is the end.
    #[cfg(not(feature = "kill-points"))]
    pub(crate) fn pass(self) {}

    /// Goes on, unless the environment says that this is the end.
    #[cfg(feature = "kill-points")]
    pub(crate) fn pass(self) {
        use rustix::process::{Signal, getpid, kill_process};

        let name = match self {
            Self::BeforeCommit => "before-commit",
            Self::BeforeSpoolCommit => "before-spool-commit",
            Self::BeforeUnspool => "before-unspool",
            Self::BeforeAck => "before-ack",
            Self::AfterAck => "after-ack",
            Self::WithinArchive => "within-archive",
            Self::BeforeDelete => "before-delete",
            Self::BeforeDeleteCommit => "before-delete-commit",
            Self::WithinDeletion => "within-deletion",
            Self::WithinRestore => "within-restore",
        };
        if std::env::var_os("TRAFSTAT_STORE_KILL_AT").is_some_and(|at| at == name) {
            // A process may always signal itself; should it live on, the test that
            // expects its death fails.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}
