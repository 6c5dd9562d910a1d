//! A comparison as a comment on a pull request.

use super::{
    report::{Change, Diff, Difference, Kind},
    text::{is_implied, names, sentence, summary},
};

/// Bytes of a comment; hosts refuse longer ones.
const BYTES_MAX: usize = 60_000;
/// Rows beyond which a table is folded.
const FOLDED: usize = 15;

/// The comparison as GitHub-flavoured Markdown.
pub fn markdown(diff: &Diff) -> String {
    let mut out = format!("### What may be reached: {}\n\n", escaped(&summary(diff)));
    let titles = match diff.profiles {
        true => [
            format!("Let through by {} alone", diff.new),
            format!("Let through by {} alone", diff.old),
        ],
        false => ["Newly let through".into(), "No longer let through".into()],
    };
    let [gained, lost] = &titles;
    let of = |wanted: &dyn Fn(&Difference) -> bool| -> Vec<&Difference> {
        let all = &diff.differences;
        let told = all.iter().filter(|d| wanted(d) && !is_implied(d, all));
        told.collect()
    };
    let reach = |change| move |d: &Difference| d.kind == Kind::Reach && d.change == change;
    let sections = [
        (gained.as_str(), of(&reach(Change::Gains))),
        (lost.as_str(), of(&reach(Change::Loses))),
        (
            "Otherwise different",
            of(&|d| d.kind != Kind::Reach || d.change == Change::Changes),
        ),
    ];
    for (title, differences) in sections {
        section(&mut out, diff, title, &differences);
    }
    for (title, list) in [
        ("New destinations", &diff.added_destinations),
        ("Destinations that are gone", &diff.removed_destinations),
    ] {
        if list.is_empty() {
            continue;
        }
        out += &format!("**{title}**\n\n");
        for destination in list {
            let policies = match destination.policies.as_slice() {
                [] => "no policy applies: open to everybody".into(),
                policies => format!("under {}", names(policies)),
            };
            bullet(
                &mut out,
                &format!("{}: {policies}", names(&destination.names)),
            );
            for d in destination
                .reachable
                .iter()
                .filter(|_| !destination.policies.is_empty())
            {
                let text = format!("{}: {}, {}", d.sources.text, d.ports.text, d.operation.text);
                out += &format!("  - {}\n", escaped(&text));
            }
        }
        out.push('\n');
    }
    let sources = [
        ("New sources", &diff.added_sources),
        ("Sources that are gone", &diff.removed_sources),
    ];
    for (title, list) in sources {
        if !list.is_empty() {
            let of: Vec<String> = list
                .iter()
                .map(|source| format!("{} (as {})", source.name, source.service_account))
                .collect();
            out += &format!("**{title}**: {}\n\n", escaped(&names(&of)));
        }
    }
    for note in &diff.notes {
        bullet(&mut out, note);
    }
    if out.len() > BYTES_MAX {
        cut(&mut out);
    }
    out
}

fn section(out: &mut String, diff: &Diff, title: &str, differences: &[&Difference]) {
    if differences.is_empty() {
        return;
    }
    let folded = differences.len() > FOLDED;
    if folded {
        *out += &format!(
            "<details><summary>{title} ({})</summary>\n\n",
            differences.len()
        );
    } else {
        *out += &format!("**{title}**\n\n");
    }
    *out += "| destination | port | what |\n|---|---|---|\n";
    for d in differences {
        *out += &format!(
            "| {} | {} | {} |\n",
            escaped(&names(&d.destinations)),
            escaped(&d.ports.text),
            escaped(&sentence(diff, d))
        );
        if out.len() > BYTES_MAX {
            break;
        }
    }
    out.push('\n');
    if folded {
        *out += "</details>\n\n";
    }
    let shown: Vec<String> = differences
        .iter()
        .filter_map(|d| d.example.as_ref())
        .filter_map(|example| serde_json::to_string(example).ok())
        .collect();
    if !shown.is_empty() && out.len() < BYTES_MAX {
        // A fence longer than any run of backticks within.
        let fence = "`".repeat(shown.iter().map(|s| ticks(s)).max().unwrap_or(0).max(2) + 1);
        *out += &format!(
            "<details><summary>Requests that show it, for `policyc eval`</summary>\n\n{fence}json\n{}\n{fence}\n\n</details>\n\n",
            shown.join("\n")
        );
    }
}

fn bullet(out: &mut String, text: &str) {
    *out += &format!("- {}\n", escaped(text));
}

fn ticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// Text that Markdown and HTML leave as it is. Names and values come from whoever wrote the policy.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '\n' | '\r' => out.push(' '),
            '@' => out += "&#64;",
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '|' | '#' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Cuts at a line, and says so.
fn cut(out: &mut String) {
    let mut end = BYTES_MAX;
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    let line = out
        .get(..end)
        .and_then(|text| text.rfind('\n'))
        .unwrap_or(0);
    out.truncate(line);
    let open = out.matches("<details>").count() - out.matches("</details>").count();
    let fence = out.lines().rev().find(|line| line.starts_with("```"));
    let fence = fence.and_then(|line| line.strip_suffix("json"));
    if let Some(fence) = fence.map(str::to_owned) {
        *out += &format!("\n{fence}");
    }
    *out += "\n";
    for _ in 0..open {
        *out += "\n</details>\n";
    }
    *out += "\nCut here: `policyc diff --format json` has all of it.\n";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_comment_is_cut_where_it_can_be() {
        let mut out = "<details><summary>s</summary>\n\n````json\n".to_owned();
        while out.len() < BYTES_MAX + 100 {
            out += "{\"id\": \"\u{e9}\"}\n";
        }
        cut(&mut out);
        assert!(out.len() < BYTES_MAX + 200);
        assert!(
            out.contains("}\n````\n\n</details>\n\nCut here"),
            "the fence and the fold are closed"
        );
    }

    #[test]
    fn text_from_policies_is_no_markup() {
        assert_eq!(escaped("<b>|`@a\n*"), "&lt;b&gt;\\|\\`&#64;a \\*");
    }
}
