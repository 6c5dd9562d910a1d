//! `policyc check --watch`: the same check after each change, told as what is new and what is mended.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Write, stdout},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use notify::{RecursiveMode, Watcher};
use policyc::{
    diagnostic::{self, Diagnostic},
    read::{Sources, Watched},
};

use super::{
    super::{
        Outcome,
        sources::{outcome, summary, underline},
    },
    Args, Checked, Format, account, check, print,
};

/// A change that is followed by another one so soon is told with it.
const QUIET: Duration = Duration::from_millis(20);
/// However many follow, they are told after this.
const QUIET_MAX: Duration = Duration::from_millis(100);
/// Some file systems tell nobody: they are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

enum Event {
    Changed(BTreeSet<PathBuf>),
    /// Ctrl-C, or whoever started this wants it to end.
    End,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if !matches!(args.format, Format::Human | Format::Json) {
        bail!("--watch prints one outcome after another: give --format human or json");
    }
    let inputs = args.sources.inputs();
    let Some(mut watched) = Watched::new(inputs, args.sources.mesh.clone()) else {
        bail!("standard input cannot be watched: give files and folders");
    };
    let (events, _watcher) = listen(&watched)?;
    let again = |watched: &Watched| {
        let (loaded, found) = watched.load();
        check(loaded, found, args.sources.catch_all_deny.into())
    };
    watched.refresh(&BTreeSet::new());
    let mut last = again(&watched);
    match args.format {
        Format::Json => line(&last)?,
        _ => {
            print(args, &last)?;
            writeln!(stdout(), "watching; Ctrl-C ends")?;
        }
    }
    while let Event::Changed(told) = next(&events) {
        let start = Instant::now();
        if !watched.refresh(&told) {
            continue;
        }
        let checked = again(&watched);
        match args.format {
            Format::Json => line(&checked)?,
            _ => tell(&last, &checked, start)?,
        }
        // Giving back the memory of ten thousand policies takes its time.
        let old = std::mem::replace(&mut last, checked);
        thread::spawn(move || drop(old));
    }
    Ok(outcome(&last.found, args.deny_warnings))
}

/// What is told of changes, for as long as the watcher lives.
fn listen(watched: &Watched) -> anyhow::Result<(Receiver<Event>, notify::RecommendedWatcher)> {
    let (send, events) = channel();
    let end = send.clone();
    // The channel is closed only when nobody listens any more.
    ctrlc::set_handler(move || drop(end.send(Event::End))).context("cannot hear Ctrl-C")?;
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let paths = match event {
            // Reading is no change.
            Ok(event) if event.kind.is_access() => return,
            Ok(event) => event.paths.into_iter().collect(),
            // Something was missed: everything is looked at again.
            Err(_) => BTreeSet::new(),
        };
        drop(send.send(Event::Changed(paths)));
    })
    .context("cannot watch files")?;
    for root in watched.roots() {
        // An editor replaces a file by another one, which only its folder is told of.
        let folder = match root.is_dir() {
            true => root,
            false => root.parent().unwrap_or(Path::new("")),
        };
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let mode = match root.is_dir() {
            true => RecursiveMode::Recursive,
            false => RecursiveMode::NonRecursive,
        };
        // What cannot be watched, such as a folder that is not there yet, is looked at now and then.
        if let Err(error) = watcher.watch(folder, mode) {
            eprintln!(
                "policyc: {} is looked at every {} s: {error}",
                folder.display(),
                LOOK_EVERY.as_secs()
            );
        }
    }
    Ok((events, watcher))
}

/// The next change, with all that follow soon; or that it is time to look.
fn next(events: &Receiver<Event>) -> Event {
    let mut told = match events.recv_timeout(LOOK_EVERY) {
        Ok(Event::Changed(told)) => told,
        Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Event::End,
        Err(RecvTimeoutError::Timeout) => return Event::Changed(BTreeSet::new()),
    };
    let start = Instant::now();
    while start.elapsed() < QUIET_MAX {
        match events.recv_timeout(QUIET) {
            // To be told of nothing in particular is to be told of everything.
            Ok(Event::Changed(more)) if more.is_empty() || told.is_empty() => told.clear(),
            Ok(Event::Changed(more)) => told.extend(more),
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Event::End,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    Event::Changed(told)
}

/// The outcome as one line of JSON.
fn line(checked: &Checked) -> anyhow::Result<()> {
    let json = diagnostic::json(&checked.found, &checked.loaded.sources);
    let value: serde_json::Value = serde_json::from_str(&json)?;
    writeln!(stdout(), "{value}")?;
    Ok(())
}

/// What is new, what is mended, and how things stand.
fn tell(last: &Checked, now: &Checked, start: Instant) -> anyhow::Result<()> {
    let took = start.elapsed();
    let new = without(now, last);
    let mended = without(last, now);
    underline(&new, &now.loaded);
    let mut out = stdout();
    for diagnostic in &mended {
        writeln!(
            out,
            "mended: {} {} {}",
            last.loaded.sources.file_name_of(diagnostic.at.document),
            diagnostic.code,
            diagnostic.message
        )?;
    }
    let change = match (new.len(), mended.len()) {
        (0, 0) => "nothing new".to_owned(),
        (new, mended) => format!("{new} new, {mended} mended"),
    };
    writeln!(
        out,
        "{}; {change} ({} ms)",
        account(&now.loaded.cluster, &summary(&now.found)),
        took.as_millis()
    )?;
    Ok(())
}

/// Diagnostics of one outcome that another one does not have. A line that only moved is no news.
fn without(of: &Checked, other: &Checked) -> Vec<Diagnostic> {
    let mut known: BTreeMap<_, usize> = BTreeMap::new();
    for diagnostic in &other.found {
        *known
            .entry(key(diagnostic, &other.loaded.sources))
            .or_default() += 1;
    }
    let mut new = Vec::new();
    for diagnostic in &of.found {
        match known.get_mut(&key(diagnostic, &of.loaded.sources)) {
            Some(count) if *count > 0 => *count -= 1,
            _ => new.push(diagnostic.clone()),
        }
    }
    new
}

/// What makes a diagnostic the same as one of an earlier outcome.
fn key<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> impl Ord + use<'a> {
    let Diagnostic {
        code,
        severity,
        message,
        at,
        help,
        policy,
    } = diagnostic;
    let file = sources.file_name_of(at.document);
    (file, *code, *severity, message, &at.path, help, policy)
}
