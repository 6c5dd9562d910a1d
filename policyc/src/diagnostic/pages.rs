//! What `policyc explain CODE` prints: a page for each code, with an example, the reason and the fix.

mod cluster;
mod lints;
mod lowering;
mod policy;
mod reading;
mod tokens;

use super::Code;

/// The documentation of one code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// What is wrong, in one line.
    pub title: &'static str,
    /// The shortest text that causes it.
    pub example: &'static str,
    /// Why it is reported.
    pub reason: &'static str,
    /// What to write instead.
    pub fix: &'static str,
}

impl Code {
    /// The code's page.
    pub fn page(self) -> Page {
        let pages = [
            reading::PAGES,
            policy::PAGES,
            tokens::PAGES,
            cluster::PAGES,
            lowering::PAGES,
            lints::PAGES,
        ];
        let mut all = pages.into_iter().flatten();
        // INVARIANT: every code has a page; a test holds it.
        all.find(|(code, _)| *code == self)
            .map_or(Page::EMPTY, |(_, page)| *page)
    }
}

impl Page {
    const EMPTY: Self = Self {
        title: "",
        example: "",
        reason: "",
        fix: "",
    };
}

impl Code {
    /// The code's page as text, 80 columns wide.
    pub fn explanation(self) -> String {
        let page = self.page();
        let wrap = |text: &str| textwrap::fill(text, 78);
        let title = wrap(&format!("{self}: {}", page.title));
        let mut text = format!("{title}\n\nExample:\n\n");
        for line in page.example.lines() {
            text += &format!("    {line}\n");
        }
        text + &format!(
            "\nWhy:\n{}\n\nFix:\n{}\n",
            wrap(page.reason),
            wrap(page.fix)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Page};

    #[test]
    fn every_code_has_a_whole_page() {
        for code in Code::all() {
            let Page {
                title,
                example,
                reason,
                fix,
            } = code.page();
            for part in [title, example, reason, fix] {
                assert!(!part.is_empty(), "{code} lacks a part of its page");
            }
            let wide = code.explanation();
            let wide = wide.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{code} is wider than 80 columns");
        }
    }

    #[test]
    fn codes_are_sorted_and_found_by_their_text() {
        let texts: Vec<&str> = Code::all().map(Code::as_str).collect();
        assert!(texts.is_sorted(), "codes are listed in order: {texts:?}");
        for code in Code::all() {
            assert_eq!(Code::parse(&code.as_str().to_lowercase()), Some(code));
        }
        assert_eq!(Code::parse("P000"), None, "no such code");
    }
}
