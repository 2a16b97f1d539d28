// SPDX-License-Identifier: GPL-2.0-or-later
//! `trafstat top`: what uses the network now, from the open epochs.

mod meter;
mod screen;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::tz::TimeZone;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use trafstat_cli::store::StoreOptions;
use trafstat_store::options::config::parse_duration;
use trafstat_store::query::Field;
use trafstat_store::source::{OpenEpochSource, PROC_ROOT, Proc};

use crate::names::Names;
use meter::Meter;
use screen::{Action, Screen};

/// What to look at, and how often.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trafstat top                                who uses which service now
  trafstat top --by remote-ip --every 5s      with whom
  trafstat top --by local-ip,remote-ip,remote-port

Keys: q ends, left and right choose the column to sort by, up, down, page up and page down
move, g changes what lines are made by, space holds still, n shows numbers or names.

It reads the open epochs, which the collector does not notice. A rate is over the time since
the last look; what an epoch counted between the last look and its close is not in it.

Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct TopOptions {
    /// Fields to sum up by, separated by commas.
    #[arg(
        long,
        value_name = "FIELDS",
        value_delimiter = ',',
        value_parser = parse_field,
        default_value = "local-ip,protocol,local-port"
    )]
    by: Vec<Field>,

    /// How often to look.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2s")]
    every: Duration,

    /// Protocols and ports without their names.
    #[arg(long, short)]
    numeric: bool,

    /// Where the kernel module shows its accounts.
    #[arg(long, value_name = "PATH", default_value = PROC_ROOT, hide = true)]
    proc_root: PathBuf,
}

impl TopOptions {
    /// Shows what goes over until the user has seen enough.
    ///
    /// # Errors
    /// There is no module or no terminal, or either fails; the terminal is as it was.
    pub fn run(self) -> Result<()> {
        let mut source = Proc::new(&self.proc_root);
        let first = source.open_epochs()?;
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            bail!(
                "this needs a terminal; \"trafstat show --since 5m\" writes into files and pipes"
            );
        }
        let mut meter = Meter::default();
        meter.read(first, Duration::ZERO);
        let mut screen = Screen::new(
            self.by,
            Names::new(TimeZone::system(), self.numeric).with_hosts(&StoreOptions::default()),
            self.numeric,
            self.every,
        );
        in_terminal(&mut source, &mut meter, &mut screen)
    }
}

/// Takes the terminal, and gives it back whatever happens.
fn in_terminal(
    source: &mut dyn OpenEpochSource,
    meter: &mut Meter,
    screen: &mut Screen,
) -> Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    let watch = |signal, flag: &Arc<AtomicBool>| {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot watch for signals")
    };
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        watch(signal, &ended)?;
    }
    // Only ends a wait.
    watch(SIGWINCH, &Arc::default())?;
    // Also sets a panic hook that gives the terminal back before it says anything.
    let mut terminal = ratatui::try_init().context("cannot take the terminal")?;
    let shown = show(&mut terminal, source, meter, screen, &ended);
    let restored = ratatui::try_restore().context("cannot give the terminal back");
    shown.and(restored)
}

/// How long it takes at most until a signal is noticed that came just before a wait.
const SIGNALS_EVERY: Duration = Duration::from_millis(200);

/// What ended a wait.
#[derive(PartialEq, Eq)]
enum Woken {
    /// Keys can be read.
    Keys,
    /// A signal: the terminal may have another size.
    Signal,
    /// The time is over.
    Time,
}

fn show(
    terminal: &mut DefaultTerminal,
    source: &mut dyn OpenEpochSource,
    meter: &mut Meter,
    screen: &mut Screen,
    ended: &AtomicBool,
) -> Result<()> {
    let mut last = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        terminal.draw(|frame| screen.draw(meter, frame))?;
        let due = last + screen.every();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let woken = wait(left.min(SIGNALS_EVERY))?;
            if woken == Woken::Keys && press_all(screen)? == Action::Quit {
                return Ok(());
            }
            if woken != Woken::Time || left.is_zero() || ended.load(Ordering::Relaxed) {
                break;
            }
        }
        if Instant::now() >= due {
            if !screen.holds_still() {
                meter.read(source.open_epochs()?, last.elapsed());
            }
            last = Instant::now();
        }
    }
    Ok(())
}

/// Waits for keys or a signal, so long at most.
///
/// [`event::poll`] would read from a terminal that is gone for ever.
fn wait(at_most: Duration) -> Result<Woken> {
    let stdin = io::stdin();
    let mut descriptors = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut descriptors, Some(&at_most.try_into()?)) {
        Ok(0) => Ok(Woken::Time),
        Ok(_) if descriptors[0].revents() == PollFlags::IN => Ok(Woken::Keys),
        Ok(_) => bail!("the terminal is gone"),
        Err(Errno::INTR) => Ok(Woken::Signal),
        Err(error) => Err(error).context("cannot wait for keys"),
    }
}

/// Presses the keys that can be read.
fn press_all(screen: &mut Screen) -> Result<Action> {
    while event::poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && screen.press(key) == Action::Quit
        {
            return Ok(Action::Quit);
        }
    }
    Ok(Action::Continue)
}

/// Open epochs have neither times nor hosts.
fn parse_field(text: &str) -> Result<Field, String> {
    screen::FIELDS
        .into_iter()
        .find(|field| field.column().replace('_', "-") == text)
        .ok_or_else(|| {
            "expected local-ip, remote-ip, local-port, remote-port, protocol or account".to_owned()
        })
}

#[cfg(test)]
mod tests;
