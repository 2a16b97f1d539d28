// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store --source live:IFACE`: counts an interface without the kernel module, and
//! stores its epochs by the wall clock, until SIGTERM or SIGINT.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tracing::{error, info, warn};
use trafstat_cli::store::StoreOptions;
use trafstat_store::collect::{Collector, Service};
use trafstat_store::origin::Origin;
use trafstat_store::source::Namespace;
use trafstat_store::source::live::{self, Interface, InterfaceSource, Live, LiveStatus};
use trafstat_store::watch::Watch;

use crate::collect::{CollectOptions, Rounds, SPOOLED};
use crate::settings::{Settings, WRONG_USAGE};

/// How often epochs close where nothing says so.
const DEFAULT_EPOCH: Duration = Duration::from_secs(5 * 60);

pub fn run(
    interface: &str,
    options: &CollectOptions,
    store: &StoreOptions,
    settings: Settings,
) -> Result<ExitCode> {
    let rules = match options.live_rules() {
        Ok(rules) => rules,
        Err(reason) => {
            error!("{reason}");
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    let service = Service::start().context("cannot take the signals over")?;
    let stopper = service.stopper().context("cannot take the signals over")?;
    let here = Origin::of_this_process()?;
    let (origin, opened) = match options.live_netns() {
        None => (here, Interface::open(interface)),
        Some(name) => (
            here.in_namespace(name),
            Namespace::named(name)?.within(|| Interface::open(interface))?,
        ),
    };
    let mut live = live::start(opened?, &rules, move || stopper.stop())?;
    let said = Said::new(interface);
    let settings = {
        let sources = |_: &_| Ok(vec![(origin.clone(), InterfaceSource::of(&live))]);
        let every = options.epoch_or_every();
        let first = every
            .or(settings.config.collect.every)
            .unwrap_or(DEFAULT_EPOCH);
        let rounds = Rounds {
            options,
            store,
            service: &service,
            every,
            sources: &sources,
            after: &|| said.tell(live.status()),
            // Nothing is counted yet.
            is_first_at_once: false,
        };
        rounds.serve(settings, first)?
    };
    let exit = end(&mut live, options, &origin, &settings, &service, &said);
    service.end();
    exit
}

/// Stores what was counted last. A signal to stop has come already, so none ends this.
fn end(
    live: &mut Live,
    options: &CollectOptions,
    origin: &Origin,
    settings: &Settings,
    service: &Service,
    said: &Said<'_>,
) -> Result<ExitCode> {
    let (seen, ended) = live.stop().context("the counting had ended before")?;
    said.tell(Some(seen));
    let last = LastRounds(service);
    let mut collector = Collector::new(
        || settings.location.open_to_append(),
        Some(options.spool_place(&settings.config.collect)),
        &last,
    )
    // What is not in the spool when the time to stop is over is lost.
    .spooling_first();
    let is_idle = |live: &Live| live.accounts().iter().all(|account| account.is_idle());
    let mut round = collector.round(&mut [(origin.clone(), InterfaceSource::of(live))])?;
    options.report(&round)?;
    // What came after an epoch that had waited to be stored.
    if !is_idle(live) {
        round = collector.round(&mut [(origin.clone(), InterfaceSource::of(live))])?;
        options.report(&round)?;
    }
    if !is_idle(live) {
        return Err(anyhow!(
            "{} ends, and what it counted and could not be stored is lost",
            said.source
        ));
    }
    ended?;
    Ok(match round.waiting {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(SPOOLED),
    })
}

/// What was said of the interface, so that it is said once.
struct Said<'a> {
    source: String,
    interface: &'a str,
    seen: Cell<LiveStatus>,
}

impl<'a> Said<'a> {
    fn new(interface: &'a str) -> Self {
        Self {
            source: format!("live:{interface}"),
            interface,
            seen: Cell::default(),
        }
    }

    /// Says what of the frames no account has, and how the interface is.
    fn tell(&self, seen: Option<LiveStatus>) {
        let Some(seen) = seen else {
            return;
        };
        let before = self.seen.replace(seen);
        let Self {
            source, interface, ..
        } = self;
        let dropped = seen.dropped - before.dropped;
        if dropped > 0 {
            warn!(
                "{source}: the kernel dropped {dropped} packets that are not \
                 counted; they came faster than this host can count them"
            );
        }
        match (before.is_down, seen.is_down) {
            (false, true) => warn!("{source}: {interface} is down; it is counted once it is up"),
            (true, false) => info!("{source}: {interface} is up again"),
            _ => {}
        }
        let (tally, told) = (seen.tally, before.tally);
        for (packets, told, family) in [
            (tally.ipv4_without_rule, told.ipv4_without_rule, "IPv4"),
            (tally.ipv6_without_rule, told.ipv6_without_rule, "IPv6"),
        ] {
            if packets > 0 && told == 0 {
                warn!(
                    "{source}: {family} packets are not counted; --local-net \
                     has no {family} net"
                );
            }
        }
    }
}

/// Watches the rounds after the signal to stop.
struct LastRounds<'a>(&'a Service);

impl Watch for LastRounds<'_> {
    fn alive(&self) {
        self.0.alive();
    }

    fn stopping(&self) -> bool {
        false
    }

    fn wait(&self, pause: Duration) {
        self.0.alive();
        std::thread::sleep(pause);
    }
}
