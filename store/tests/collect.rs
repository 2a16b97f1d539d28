// SPDX-License-Identifier: GPL-2.0-or-later
//! The protocol between collector, kernel and store.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;

use common::{SnapshotBuilder, record};
use trafstat_store::account::{Account, Family};
use trafstat_store::backend::Sqlite;
use trafstat_store::collect::{CollectError, Collector, Outcome, State};
use trafstat_store::origin::Origin;
use trafstat_store::query::{Field, Filter, Order, Query};
use trafstat_store::source::{ClosedEpoch, Source, SourceError};
use trafstat_store::store::{Store, StoreError};
use trafstat_store::watch::Unwatched;

/// A kernel in which every opening without an unacknowledged epoch closes the next.
#[derive(Default)]
struct Kernel {
    accounts: BTreeMap<Account, Rc<RefCell<Served>>>,
    busy: Vec<Account>,
}

/// The epoch of an account that waits to be acknowledged, and what befalls it.
struct Served {
    name: &'static str,
    epoch: u64,
    spoil: fn(&mut SnapshotBuilder),
    refuse_acknowledgement: bool,
    fail_read_at: Option<usize>,
    acknowledged: Vec<u64>,
}

struct OpenEpoch {
    served: Rc<RefCell<Served>>,
    bytes: Vec<u8>,
    at: usize,
}

impl Kernel {
    fn with(names: &[&'static str]) -> Self {
        let mut kernel = Self::default();
        for &name in names {
            let served = Served {
                name,
                epoch: 1,
                spoil: |_| {},
                refuse_acknowledgement: false,
                fail_read_at: None,
                acknowledged: Vec::new(),
            };
            kernel
                .accounts
                .insert(account(name), Rc::new(RefCell::new(served)));
        }
        kernel
    }

    fn served(&self, name: &str) -> std::cell::RefMut<'_, Served> {
        self.accounts[&account(name)].borrow_mut()
    }
}

impl Source for Kernel {
    type Epoch = OpenEpoch;

    fn accounts(&mut self) -> Result<Vec<Account>, SourceError> {
        Ok(self.accounts.keys().cloned().collect())
    }

    fn open(&mut self, account: &Account) -> Result<Option<OpenEpoch>, SourceError> {
        if self.busy.contains(account) {
            return Err(SourceError::Busy(PathBuf::from(account.name.as_str())));
        }
        let served = Rc::clone(&self.accounts[account]);
        let bytes = {
            let served = served.borrow();
            let records = vec![record(1, 1, 6, 22, 10 * served.epoch)];
            let mut snapshot = SnapshotBuilder::new(served.name, served.epoch, records);
            (served.spoil)(&mut snapshot);
            snapshot.bytes()
        };
        Ok(Some(OpenEpoch {
            served,
            bytes,
            at: 0,
        }))
    }
}

impl Read for OpenEpoch {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self
            .served
            .borrow()
            .fail_read_at
            .is_some_and(|at| self.at >= at)
        {
            return Err(io::Error::other("no memory"));
        }
        let count = (&self.bytes[self.at..]).read(bytes)?;
        self.at += count;
        Ok(count)
    }
}

impl ClosedEpoch for OpenEpoch {
    fn acknowledge(&mut self, epoch: u64) -> Result<(), SourceError> {
        let mut served = self.served.borrow_mut();
        if served.refuse_acknowledgement || epoch != served.epoch {
            return Err(SourceError::Stale {
                path: PathBuf::from(served.name),
                epoch,
            });
        }
        served.acknowledged.push(epoch);
        served.epoch += 1;
        Ok(())
    }
}

#[test]
fn every_epoch_is_stored_once_and_acknowledged() {
    let (mut kernel, mut store) = (Kernel::with(&["lan", "dmz"]), Stored::new());
    for _ in 0..3 {
        for outcome in store.collect(&mut kernel) {
            assert_eq!(outcome.result.unwrap(), State::Stored);
        }
    }
    assert_eq!(kernel.served("lan").acknowledged, [1, 2, 3]);
    assert_eq!(kernel.served("dmz").acknowledged, [1, 2, 3]);
    assert_eq!(store.sent_packets(), 2 * (10 + 20 + 30));
}

#[test]
fn refused_snapshot_is_neither_stored_nor_acknowledged() {
    let (mut kernel, mut store) = (Kernel::with(&["dmz", "lan", "wan"]), Stored::new());
    kernel.served("lan").spoil = |snapshot| snapshot.records[0].sent_packets += 1;

    let outcomes = store.collect(&mut kernel);
    let states: Vec<bool> = outcomes.iter().map(|o| o.result.is_ok()).collect();
    assert_eq!(states, [true, false, true]);
    let error = outcomes[1].result.as_ref().unwrap_err().to_string();
    assert!(
        error.contains("recorded 30, the records hold 31"),
        "{error}"
    );
    assert_eq!(outcomes[1].header.as_ref().unwrap().epoch, 1);
    assert_eq!(kernel.served("lan").acknowledged, [0; 0]);
    assert_eq!(store.sent_packets(), 20);

    // Served again as it should be, it is stored.
    kernel.served("lan").spoil = |_| {};
    assert!(store.collect(&mut kernel).iter().all(|o| o.result.is_ok()));
    assert_eq!(store.sent_packets(), 20 + 10 + 40);
}

#[test]
fn read_that_fails_half_way_leaves_nothing() {
    let (mut kernel, mut store) = (Kernel::with(&["lan"]), Stored::new());
    // Within the only record, after the header and the batch before it.
    kernel.served("lan").fail_read_at = Some(290);
    kernel.served("lan").spoil = |snapshot| {
        let records = (0..9000).map(|port| record(1, 1, 6, port, 1)).collect();
        *snapshot = SnapshotBuilder::new("lan", 1, records);
    };
    let outcomes = store.collect(&mut kernel);
    let error = outcomes[0].result.as_ref().unwrap_err().to_string();
    assert!(error.contains("no memory"), "{error}");
    assert_eq!(store.sent_packets(), 0);

    kernel.served("lan").fail_read_at = None;
    store.collect(&mut kernel);
    assert_eq!(store.sent_packets(), 9000);
}

#[test]
fn epoch_whose_acknowledgement_was_lost_is_acknowledged_the_next_time() {
    let (mut kernel, mut store) = (Kernel::with(&["lan"]), Stored::new());
    kernel.served("lan").refuse_acknowledgement = true;
    let outcomes = store.collect(&mut kernel);
    assert!(matches!(
        outcomes[0].result,
        Err(CollectError::Acknowledge(SourceError::Stale {
            epoch: 1,
            ..
        }))
    ));

    kernel.served("lan").refuse_acknowledgement = false;
    let outcomes = store.collect(&mut kernel);
    assert_eq!(*outcomes[0].result.as_ref().unwrap(), State::AlreadyStored);
    assert_eq!(kernel.served("lan").acknowledged, [1]);
    assert_eq!(store.sent_packets(), 10);
}

#[test]
fn other_totals_under_one_identity_are_never_acknowledged() {
    let (mut kernel, mut store) = (Kernel::with(&["lan"]), Stored::new());
    kernel.served("lan").refuse_acknowledgement = true;
    store.collect(&mut kernel);
    kernel.served("lan").refuse_acknowledgement = false;
    kernel.served("lan").spoil = |snapshot| {
        *snapshot = SnapshotBuilder::new("lan", 1, vec![record(1, 1, 6, 22, 99)]);
    };
    let outcomes = store.collect(&mut kernel);
    let error = outcomes[0].result.as_ref().unwrap_err().to_string();
    assert!(error.contains("stored 34, now 301"), "{error}");
    assert_eq!(kernel.served("lan").acknowledged, [0; 0]);
    assert_eq!(store.sent_packets(), 10);
}

#[test]
fn stored_epoch_served_again_incomplete_is_not_acknowledged() {
    let (mut kernel, mut store) = (Kernel::with(&["lan"]), Stored::new());
    kernel.served("lan").refuse_acknowledgement = true;
    store.collect(&mut kernel);
    kernel.served("lan").refuse_acknowledgement = false;
    kernel.served("lan").spoil = |snapshot| snapshot.records.clear();
    let outcomes = store.collect(&mut kernel);
    assert!(matches!(outcomes[0].result, Err(CollectError::Snapshot(_))));
    assert_eq!(kernel.served("lan").acknowledged, [0; 0]);
}

#[test]
fn snapshot_of_another_account_is_refused() {
    let (mut kernel, mut store) = (Kernel::with(&["lan"]), Stored::new());
    kernel.served("lan").name = "dmz";
    let outcomes = store.collect(&mut kernel);
    assert!(matches!(
        outcomes[0].result,
        Err(CollectError::OtherAccount(_))
    ));
    assert_eq!(store.sent_packets(), 0);
}

#[test]
fn account_with_another_reader_does_not_stop_the_rest() {
    let (mut kernel, mut store) = (Kernel::with(&["dmz", "lan"]), Stored::new());
    kernel.busy.push(account("dmz"));
    let outcomes = store.collect(&mut kernel);
    assert!(matches!(
        outcomes[0].result,
        Err(CollectError::Source(SourceError::Busy(_)))
    ));
    assert_eq!(*outcomes[1].result.as_ref().unwrap(), State::Stored);
    assert_eq!(store.sent_packets(), 10);
}

struct Stored {
    folder: tempfile::TempDir,
}

impl Stored {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        let mut store = Sqlite::open(&self.folder.path().join("trafstat.db"))?;
        store.migrate()?;
        Ok(Box::new(store))
    }

    fn collect(&mut self, kernel: &mut Kernel) -> Vec<Outcome> {
        let origin = Origin {
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            hostname: "gateway".to_owned(),
            netns: "init".to_owned(),
        };
        let round = Collector::new(|| self.open(), None, &Unwatched)
            .round(&mut [(origin, kernel)])
            .unwrap();
        assert!(round.failed_sources.is_empty());
        round.outcomes
    }

    fn sent_packets(&mut self) -> u64 {
        let query = Query {
            by: vec![Field::LocalIp],
            filter: Filter::default(),
            order: Order::Bytes,
            limit: None,
            ..Query::default()
        };
        self.open()
            .unwrap()
            .query(&query)
            .unwrap()
            .total
            .sent_packets
    }
}

fn account(name: &str) -> Account {
    Account {
        family: Family::Ipv4,
        name: name.parse().unwrap(),
    }
}
