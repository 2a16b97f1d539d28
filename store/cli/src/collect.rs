// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat-store collect`: once, or as a service.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use clap::Args;
use jiff::Timestamp;
use trafstat_cli::capture::CaptureOptions;
use trafstat_cli::hint::with_hint;
use trafstat_cli::output::{Format, to_stdout};
use trafstat_cli::store::StoreOptions;
use trafstat_store::collect::{
    Collector, Outcome, Round, Service, SpoolPlace, State, Woken, next_due,
};
use trafstat_store::host::{HostCheck, RunningHost};
use trafstat_store::options::config::{CollectConfig, parse_duration};
use trafstat_store::origin::Origin;
use trafstat_store::source::capture::OwnedRules;
use trafstat_store::source::{Namespace, PROC_ROOT, Proc, Source, SourceError};
use trafstat_store::watch::Watch;

use crate::report::Report;
use crate::settings::Settings;
use tracing::{error, info, warn};
use trafstat_cli::progress::Progress;

#[derive(Debug, Args)]
pub struct CollectOptions {
    /// Collect once, whatever the configuration says. Of a capture: count a packet once that several
    /// interfaces saw, such as a bridge's port, the bridge and the uplink. A packet is the same as one
    /// that another interface saw at most a millisecond before if both have the same length and the
    /// same first 256 bytes from the IP header on, but for traffic class, flow label, time to live and
    /// checksums.
    #[arg(long, conflicts_with = "every", global = true)]
    once: bool,

    /// Collect as a service, so often, such as 5m; aligned to the clock.
    #[arg(long, value_name = "INTERVAL", env = "TRAFSTAT_EVERY", value_parser = parse_duration, global = true)]
    every: Option<Duration>,

    /// Collect from this network namespace of `ip netns`, or from all [default: from the
    /// one that trafstat-store runs in].
    #[arg(
        long,
        value_name = "NAME|all",
        env = "TRAFSTAT_NETNS",
        value_delimiter = ',',
        global = true
    )]
    netns: Vec<String>,

    /// File that keeps epochs while the database is away [default:
    /// /var/lib/trafstat/spool.db].
    #[arg(long, value_name = "FILE", env = "TRAFSTAT_SPOOL", global = true)]
    spool: Option<PathBuf>,

    /// How large the spool may become [default: 1 GiB].
    #[arg(long, value_name = "SIZE", env = "TRAFSTAT_SPOOL_SIZE", global = true)]
    spool_size: Option<ByteSize>,

    /// Keep every epoch in the spool first, and then store it: for shutdown, when the time for the
    /// database's answers may run out. Collects once, whatever the configuration says.
    #[arg(long, conflicts_with_all = ["every", "source"], global = true)]
    spool_first: bool,

    /// How to report what became of each account.
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,

    /// Where the kernel module shows its accounts.
    #[arg(long, value_name = "PATH", default_value = PROC_ROOT, hide = true, global = true)]
    proc_root: PathBuf,

    #[command(flatten)]
    pub capture: CaptureOptions,
}

/// Collects from the kernel module: once, or as a service.
pub fn run(options: &CollectOptions, store: &StoreOptions, settings: Settings) -> Result<ExitCode> {
    match options.every.or(settings.config.collect.every) {
        Some(every) if !options.once && !options.spool_first => {
            serve(options, store, settings, every)
        }
        _ => once(options, &settings),
    }
}

/// Nothing is lost, but the database does not have it yet.
pub const SPOOLED: u8 = 3;

fn once(options: &CollectOptions, settings: &Settings) -> Result<ExitCode> {
    let mut sources = options.sources(&settings.config.collect)?;
    // Without the module there is nothing to make a database for.
    let mut accounts = 0;
    for (_, source) in &mut sources {
        accounts += source.accounts()?.len();
    }
    if accounts == 0 {
        info!(
            "there is no account yet: a rule makes one, such as \
             \"iptables -A INPUT -j TRAFSTAT --local-net 192.0.2.0/24\""
        );
    }
    let progress = Progress::new("collecting");
    let mut collector = Collector::new(
        || settings.location.open_to_append(),
        Some(options.spool_place(&settings.config.collect)),
        &progress,
    )
    .on(running_host()?);
    if options.spool_first {
        collector = collector.spooling_first();
    }
    let round = collector.round(&mut sources)?;
    progress.finish();
    complain(&round);
    for warning in round.host_check.warnings() {
        warn!("{warning}");
    }
    if let Some(away) = &round.away {
        warn!("the database is away: {}", with_hint(away));
    }
    if round.forwarded > 0 {
        info!(
            "{} epochs that waited in the spool are stored",
            round.forwarded
        );
    }
    if round.waiting > 0 {
        warn!(
            "{} epochs wait in the spool; the next collection stores them",
            round.waiting
        );
    }
    if round.all_set_aside > 0 {
        warn!(
            "{} epochs are set aside, since the database refuses them; \"trafstat-store spool \
             list\" tells why",
            round.all_set_aside
        );
    }
    if !round.outcomes.is_empty() || options.format != Format::Table {
        write_report(options.format, &round.outcomes)?;
    }
    Ok(match (round.is_clean(), round.waiting > 0) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::from(SPOOLED),
        (true, false) => ExitCode::SUCCESS,
    })
}

/// Collects until SIGTERM or SIGINT.
fn serve(
    options: &CollectOptions,
    store: &StoreOptions,
    settings: Settings,
    every: Duration,
) -> Result<ExitCode> {
    let service = Service::start().context("cannot take the signals over")?;
    // What is wrong from the start is said at once, and ends the service.
    for (_, mut source) in options.sources(&settings.config.collect)? {
        match source.accounts() {
            // Rules load it, at boot maybe later than this.
            Err(error @ SourceError::NoModule(_)) => warn!("{error}; collecting once it is"),
            accounts => drop(accounts?),
        }
    }
    let rounds = Rounds {
        options,
        store,
        service: &service,
        every: options.every,
        sources: &|config| options.sources(config),
        after: &|| (),
        // Epochs may have waited since the last service ended.
        is_first_at_once: true,
    };
    rounds.serve(settings, every)?;
    service.end();
    Ok(ExitCode::SUCCESS)
}

/// Sources, and where each counts.
type Sources<S> = Vec<(Origin, S)>;

/// The rounds of a service.
pub struct Rounds<'a, S> {
    pub options: &'a CollectOptions,
    pub store: &'a StoreOptions,
    pub service: &'a Service,
    /// How often, whatever the configuration says.
    pub every: Option<Duration>,
    /// Where to collect from, asked for each round.
    pub sources: &'a dyn Fn(&CollectConfig) -> Result<Sources<S>>,
    /// Done after each round.
    pub after: &'a dyn Fn(),
    /// Whether the first round does not wait until it is due.
    pub is_first_at_once: bool,
}

impl<S: Source> Rounds<'_, S> {
    /// Collects until the service is to stop; reads the configuration again on SIGHUP. Gives
    /// the last one.
    pub fn serve(&self, mut settings: Settings, mut every: Duration) -> Result<Settings> {
        self.service.ready();
        loop {
            self.serve_until_reload(&settings, every)?;
            if self.service.stopping() {
                return Ok(settings);
            }
            self.service.reloading();
            match Settings::new(self.store) {
                Ok(read) => {
                    settings = read;
                    every = self
                        .every
                        .or(settings.config.collect.every)
                        .unwrap_or(every);
                    info!("the configuration is read again");
                }
                Err(error) => {
                    error!("{error}. The configuration stays as it was");
                }
            }
            self.service.ready();
        }
    }

    fn serve_until_reload(&self, settings: &Settings, every: Duration) -> Result<()> {
        let Self {
            options, service, ..
        } = self;
        let mut collector = Collector::new(
            || settings.location.open_to_append(),
            Some(options.spool_place(&settings.config.collect)),
            *service,
        )
        .on(running_host()?);
        let mut was_away = false;
        let mut host_check = HostCheck::default();
        let mut due = next_due(Timestamp::now(), every);
        let mut collect = self.is_first_at_once;
        let mut pause = FIRST_PAUSE;
        loop {
            let round = match collect {
                true => {
                    let mut sources = (self.sources)(&settings.config.collect);
                    match &mut sources {
                        Ok(sources) => collector.round(sources),
                        Err(error) => {
                            error!("{error:#}");
                            collector.forward_only()
                        }
                    }
                }
                false => collector.forward_only(),
            };
            let waiting = match round {
                Ok(round) => {
                    tell(options.format, &round, collect, &mut was_away)?;
                    if collect && round.away.is_none() {
                        for warning in round.host_check.warnings_since(&host_check) {
                            warn!("{warning}");
                        }
                        host_check = round.host_check.clone();
                    }
                    service.status(&summary(&round));
                    round.waiting
                }
                Err(error) => {
                    error!("{error}");
                    service.status(&format!("failed: {error}"));
                    0
                }
            };
            (self.after)();
            let now = Timestamp::now();
            // The clock may have been set back.
            if now >= due || Duration::try_from(due.duration_since(now)).unwrap_or_default() > every
            {
                due = next_due(now, every);
            }
            // What waits in the spool is offered again before the next round.
            let mut wake = due;
            if waiting > 0 {
                wake = due.min(now.saturating_add(pause).unwrap_or(due));
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
            match service.wait_until(wake) {
                Woken::Due => collect = wake == due,
                Woken::Reload | Woken::Stop => return Ok(()),
            }
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

fn running_host() -> Result<RunningHost> {
    Ok(RunningHost::new(&Origin::of_this_process()?)?)
}

/// Says what a round of the service came to: failures, and what changed.
fn tell(format: Format, round: &Round, collected: bool, was_away: &mut bool) -> Result<()> {
    complain(round);
    match &round.away {
        Some(away) if !*was_away => {
            warn!(
                "the database is away: {}. Epochs wait in the spool",
                with_hint(away)
            )
        }
        None if *was_away => info!("the database is back"),
        _ => {}
    }
    *was_away = round.away.is_some();
    if !collected && round.forwarded == 0 {
        return Ok(());
    }
    match format {
        Format::Table => to_stdout(|writer| writeln!(writer, "{}", summary(round)))
            .context("cannot write to standard output"),
        _ if collected => write_report(format, &round.outcomes),
        _ => Ok(()),
    }
}

fn summary(round: &Round) -> String {
    let count = |state| {
        let is = |outcome: &&Outcome| outcome.result.as_ref().is_ok_and(|found| *found == state);
        round.outcomes.iter().filter(is).count()
    };
    let stored = count(State::Stored) + count(State::AlreadyStored);
    let spooled = count(State::Spooled);
    let failed = round.outcomes.len() - stored - spooled;
    let records: u64 = round
        .outcomes
        .iter()
        .filter(|outcome| outcome.result.is_ok())
        .filter_map(|outcome| outcome.header.as_ref())
        .map(|header| header.records)
        .sum();
    let mut text = format!("stored {stored} epochs of {records} records");
    for (number, what) in [
        (spooled as u64, "spooled"),
        (round.forwarded, "forwarded from the spool"),
        (round.waiting, "waiting in the spool"),
        (round.all_set_aside, "set aside"),
        (failed as u64, "failed"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    text
}

/// Says on standard error what failed.
fn complain(round: &Round) {
    for outcome in &round.outcomes {
        if let Err(error) = &outcome.result {
            let epoch = outcome
                .header
                .as_ref()
                .map(|header| format!(", epoch {}", header.epoch))
                .unwrap_or_default();
            error!(account = %outcome.account, "account {}{epoch}: {error}", outcome.account);
        }
    }
    for (origin, error) in &round.failed_sources {
        error!(netns = %origin.netns, "network namespace {}: {error}", origin.netns);
    }
    for (origin, error) in &round.refused {
        warn!(
            "an epoch from network namespace {} stays in the spool: {}",
            origin.netns,
            error.reason()
        );
    }
    for (origin, reason) in &round.set_aside {
        error!(
            "an epoch from network namespace {} is set aside: {reason}. \"trafstat-store spool \
             list\" has it, \"spool retry\" has it offered to the database again",
            origin.netns
        );
    }
    if let Some(error) = &round.spool_error {
        error!("{error}");
    }
}

fn write_report(format: Format, outcomes: &[Outcome]) -> Result<()> {
    let report = Report::new(outcomes);
    to_stdout(|writer| report.write(format, writer)).context("cannot write the report")
}

impl CollectOptions {
    /// The rules by which a live interface is counted.
    pub fn live_rules(&self) -> Result<OwnedRules, String> {
        if self.once {
            return Err(
                "--once: a live interface is counted until it is stopped; leave it \
                        out, and say with --every how often to store"
                    .to_owned(),
            );
        }
        if self.netns.len() > 1 || self.live_netns().is_some_and(|name| name == ALL) {
            return Err("--netns: an interface is in one network namespace".to_owned());
        }
        self.capture.rules()
    }

    /// The network namespace of a live interface, unless this process is in it.
    pub fn live_netns(&self) -> Option<&str> {
        self.netns.first().map(String::as_str)
    }

    /// How often a live interface's epochs close, where the command line says so.
    pub fn epoch_or_every(&self) -> Option<Duration> {
        self.capture.epoch.or(self.every)
    }

    /// Says what a last round of a service came to.
    pub fn report(&self, round: &Round) -> Result<()> {
        tell(self.format, round, true, &mut false)
    }

    /// Whether `--once` is given.
    pub fn is_once(&self) -> bool {
        self.once
    }

    /// How every subcommand reports.
    pub fn format(&self) -> Format {
        self.format
    }

    pub fn spool_place(&self, config: &CollectConfig) -> SpoolPlace {
        let configured = config.spool_place();
        SpoolPlace {
            path: self.spool.clone().unwrap_or(configured.path),
            limit: self.spool_size.unwrap_or(configured.limit),
        }
    }

    /// Where to collect from, as the namespaces are now.
    fn sources(&self, config: &CollectConfig) -> Result<Vec<(Origin, Proc)>> {
        let here = Origin::of_this_process()?;
        let names = match self.netns.is_empty() {
            true => &config.netns,
            false => &self.netns,
        };
        let own = || (here.clone(), Proc::new(&self.proc_root));
        if names.is_empty() {
            return Ok(vec![own()]);
        }
        let (mut sources, namespaces) = match names.iter().any(|name| name == ALL) {
            true => {
                let usable = Namespace::all()?.into_iter().filter_map(|namespace| {
                    // What is left of one does not keep the others from being collected.
                    namespace.inspect_err(|error| error!("{error}")).ok()
                });
                (vec![own()], usable.collect::<Vec<_>>())
            }
            false => {
                let named = names.iter().map(|name| Namespace::named(name));
                (Vec::new(), named.collect::<Result<_, _>>()?)
            }
        };
        sources.extend(namespaces.into_iter().map(|namespace| {
            let origin = here.in_namespace(namespace.name());
            (origin, Proc::of_namespace(namespace))
        }));
        Ok(sources)
    }
}

/// Stands for every namespace.
const ALL: &str = "all";
