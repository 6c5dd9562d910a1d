//! The account as one page that needs nothing but a browser: data, style and script are in it, and
//! its Content-Security-Policy lets nothing else in. Strings, scopes, rows and cells stand in it
//! once and are named by number, as in the table, so that its size follows the policies.
//!
//! The page shows verdicts of cells, as they were lowered; only the walk, which clause held and which
//! did not, is found by its script, and tests compare it with `lower`.

mod data;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::Reach;

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they build on each other.
const SCRIPTS: &[&str] = &[
    include_str!("page/data.js"),
    include_str!("page/walk.js"),
    include_str!("page/dom.js"),
    include_str!("page/matrix.js"),
    include_str!("page/network.js"),
    include_str!("page/list.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
];

/// The page. `old` is drawn beneath: what differs from it is marked.
///
/// # Errors
/// Data that has no JSON form; there is none.
pub fn page(reach: &Reach<'_>, old: Option<&Reach<'_>>) -> Result<String, serde_json::Error> {
    let data = serde_json::to_string(&data::Page::new(reach, old))?;
    // Nothing in a script element ends it but this character; in JSON it only occurs in strings.
    let data = data.replace('<', "\\u003c");
    let script = format!("\"use strict\";\n(() => {{\n{}}})();\n", SCRIPTS.concat());
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; base-uri 'none'; form-action 'none'",
        source(STYLE),
        source(&script)
    );
    let mut page = String::with_capacity(data.len() + (128 << 10));
    let mut rest = FRAME;
    for (place, text) in [
        ("@policy@", policy.as_str()),
        ("@style@", STYLE),
        ("@data@", &data),
        ("@script@", &script),
    ] {
        // INVARIANT: the frame has each place once, in this order; a test holds it.
        let (before, after) = rest.split_once(place).unwrap_or((rest, ""));
        page += before;
        page += text;
        rest = after;
    }
    Ok(page + rest)
}

/// How a Content-Security-Policy names an inline text.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::{FRAME, SCRIPTS, STYLE};

    #[test]
    fn the_frame_has_each_place_once_and_in_order() {
        let places = ["@policy@", "@style@", "@data@", "@script@"];
        let found: Vec<usize> = places
            .iter()
            .filter_map(|place| (FRAME.matches(place).count() == 1).then(|| FRAME.find(place))?)
            .collect();
        assert_eq!(found.len(), places.len(), "each once");
        assert!(found.is_sorted(), "in order: {found:?}");
    }

    #[test]
    fn style_and_script_ask_for_nothing_and_write_no_markup() {
        for text in SCRIPTS.iter().chain([&STYLE]) {
            for wrong in [
                "</",
                "innerHTML",
                "eval(",
                "fetch(",
                "url(",
                "@import",
                "XMLHttp",
            ] {
                assert!(!text.contains(wrong), "`{wrong}` in a part of the page");
            }
        }
    }
}
