//! Diagnostics for people, with the offending lines underlined, and for programs, as JSON.

use annotate_snippets::{
    AnnotationKind, Group, Level, Message, Origin, Renderer, Snippet, renderer::DecorStyle,
};

use super::{Code, Diagnostic, Severity};
use crate::read::{Place, Sources};

/// Columns that text is wrapped and source lines are cut to.
const WIDTH: usize = 80;

/// All diagnostics as text, in the order of files and lines, ready to be printed.
pub fn human(diagnostics: &[Diagnostic], sources: &Sources, color: bool) -> String {
    let renderer = match color {
        true => Renderer::styled(),
        false => Renderer::plain(),
    };
    let renderer = renderer.term_width(WIDTH).decor_style(DecorStyle::Ascii);
    let mut text = String::new();
    for (diagnostic, place) in in_order(diagnostics, sources) {
        text += &renderer.render(&[group(diagnostic, place.as_ref())]);
        text += "\n\n";
    }
    text
}

/// All diagnostics as one JSON array, in the order of files and lines.
pub fn json(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let list: Vec<Json<'_>> = in_order(diagnostics, sources)
        .into_iter()
        .map(|(diagnostic, place)| Json {
            code: diagnostic.code,
            severity: diagnostic.severity,
            message: &diagnostic.message,
            file: place.as_ref().map(|p| p.file),
            line: place.as_ref().map(|p| p.line),
            column: place.as_ref().map(|p| p.column),
            help: &diagnostic.help,
            policy: diagnostic.policy.as_deref(),
        })
        .collect();
    // INVARIANT: strings and numbers always have a JSON form.
    serde_json::to_string_pretty(&list).unwrap_or_else(|_| "[]".into())
}

/// One diagnostic as programs read it. The order of the fields is part of the contract.
#[derive(serde::Serialize)]
struct Json<'a> {
    code: Code,
    severity: Severity,
    message: &'a str,
    file: Option<&'a str>,
    line: Option<usize>,
    column: Option<usize>,
    help: &'a str,
    policy: Option<&'a str>,
}

/// Each diagnostic with its place, by document, line, column and code.
pub(super) fn in_order<'d, 's>(
    diagnostics: &'d [Diagnostic],
    sources: &'s Sources,
) -> Vec<(&'d Diagnostic, Option<Place<'s>>)> {
    // Sorted by document first, so that each document's positions are found only once.
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| d.at.document);
    let mut placed: Vec<_> = sorted
        .into_iter()
        .map(|d| {
            (
                d,
                sources.place(d.at.document, &d.at.path, d.code.is_about_key()),
            )
        })
        .collect();
    placed.sort_by_key(|(d, place)| {
        let place = place.as_ref().map(|p| (p.line, p.column));
        (sources.file_of(d.at.document), place, d.code)
    });
    placed
}

fn group<'a>(diagnostic: &'a Diagnostic, place: Option<&Place<'a>>) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    // `error[P001]: ` and `warning[P001]: ` stand before the first line of the title.
    let title = wrapped(&diagnostic.message, WIDTH - 15);
    let title = level.primary_title(title).id(diagnostic.code.as_str());
    let mut group = Group::with_title(title);
    if let Some(place) = place.filter(|p| p.text.is_empty()) {
        // Nothing could be read, so there is nothing to underline.
        group = group.element(Origin::path(place.file));
    } else if let Some(place) = place {
        let (line, span) = first_line(place);
        let snippet = Snippet::source(line)
            .line_start(place.line)
            .path(place.file)
            .annotation(AnnotationKind::Primary.span(span));
        group = group.element(snippet);
    }
    if let Some(policy) = &diagnostic.policy {
        group = group.element(note(Level::NOTE, format!("policy {policy}")));
    }
    group.element(note(Level::HELP, diagnostic.help.clone()))
}

fn note<'a>(level: Level<'a>, text: String) -> Message<'a> {
    level.message(wrapped(&text, WIDTH - 14))
}

fn wrapped(text: &str, width: usize) -> String {
    let options = textwrap::Options::new(width)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .break_words(false);
    textwrap::fill(text, options)
}

/// The line that a place begins on, and the place's range within it.
fn first_line<'s>(place: &Place<'s>) -> (&'s str, std::ops::Range<usize>) {
    let text = place.text;
    let start = place.span.start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[line_start..line_end].trim_end_matches('\r');
    let from = (start - line_start).min(line.len());
    let to = (place.span.end.max(start) - line_start).min(line.len());
    (line, from..to.max(from))
}
