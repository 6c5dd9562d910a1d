//! Patterns, templates, paths: each form with values that it takes and values that it does not.

use crate::{
    cluster::PathNormalization::{self, Base, DecodeAndMergeSlashes, MergeSlashes, None as Raw},
    oracle::{
        claims, normalize, template,
        text::{self, Star},
    },
};

#[track_caller]
fn takes(holds: impl Fn(&str) -> bool, yes: &[&str], no: &[&str]) {
    for value in yes {
        assert!(holds(value), "`{value}` should be taken");
    }
    for value in no {
        assert!(!holds(value), "`{value}` should not be taken");
    }
}

#[test]
fn patterns() {
    let form = |form: &'static str| move |value: &str| text::matches(form, value, Star::NotEmpty);
    takes(form("abc"), &["abc"], &["ABC", "abcd", "xabc", ""]);
    takes(form("abc*"), &["abc", "abcd"], &["ab", "xabc"]);
    takes(form("*abc"), &["abc", "xabc"], &["bc", "abcx"]);
    takes(form("*"), &["a", "*"], &[""]);
    takes(form("*a*"), &["a*", "xa*"], &["a", "xay"]);
    takes(form("a*b"), &["a*b"], &["ab", "axb"]);
    assert!(
        text::matches("*", "", Star::Present),
        "a header that is there may be empty"
    );
}

#[test]
fn wildcards_everywhere() {
    let form = |form: &'static str| move |value: &str| text::matches_everywhere(form, value);
    takes(form("ab"), &["ab"], &["a", "abc"]);
    takes(form("a*"), &["a", "ab"], &["ba", ""]);
    takes(form("*a"), &["a", "ba", "aba"], &["ab", ""]);
    takes(
        form("a*b*a"),
        &["aba", "axbya", "abba"],
        &["ab", "aa", "abab"],
    );
    takes(form("ab*ba"), &["abba", "ab-ba"], &["aba", "ab"]);
    takes(form("*"), &["", "x"], &[]);
    takes(form("**x**"), &["x", "axb"], &["", "y"]);
}

#[test]
fn templates() {
    let form = |form: &'static str| move |value: &str| template::matches(form, value);
    takes(
        form("/a/{*}"),
        &["/a/b", "/a/(*)"],
        &["/a/", "/a", "/a/b/", "/a/b/c", "/a/{*}", "/a/b|", "/a/[b]"],
    );
    takes(
        form("/{*}/b/{**}"),
        &["/x/b/", "/x/b/c/d"],
        &["/x/b", "//b/c", "/x/y/b/c"],
    );
    takes(
        form("/s/{**}/c"),
        &["/s//c", "/s/a/b/c", "/s/c/c"],
        &["/s/c", "/s/a/c/"],
    );
    takes(form("/{**}"), &["/", "/a/b"], &["", "a"]);
    assert!(
        template::is_template("/{*}") && !template::is_template("/*"),
        "a star alone is none"
    );
}

#[track_caller]
fn becomes(mode: PathNormalization, pairs: &[(&str, &str)]) {
    for (target, path) in pairs {
        assert_eq!(
            &normalize::path(target, mode),
            path,
            "`{target}` under {mode:?}"
        );
    }
}

#[test]
fn paths() {
    becomes(
        Raw,
        &[
            ("/a/../b?c", "/a/../b"),
            ("/%61", "/%61"),
            ("/a\\b", "/a\\b"),
        ],
    );
    becomes(
        Base,
        &[
            ("/", "/"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
        ],
    );
    becomes(
        Base,
        &[
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a//../b", "/a/b"),
            ("//a", "//a"),
        ],
    );
    becomes(
        Base,
        &[
            ("/%2e%2E/a", "/a"),
            ("/%41%7e%2d%5F", "/A~-_"),
            ("/%252e", "/%252e"),
        ],
    );
    becomes(
        Base,
        &[
            ("/%2f%5c%3b", "/%2f%5c%3b"),
            ("/%zz%4", "/%zz%4"),
            ("/a\\..\\b", "/b"),
        ],
    );
    becomes(
        Base,
        &[
            ("/a/..;x=1/b", "/b"),
            ("/a/.;/b", "/a/b"),
            ("/a;x/...", "/a;x/..."),
        ],
    );
    becomes(Base, &[("/a?b=/../c", "/a")]);
    becomes(MergeSlashes, &[("///a//b", "/a/b"), ("/a%2f/b", "/a%2f/b")]);
    becomes(
        DecodeAndMergeSlashes,
        &[("/a%2F%5c/b", "/a/b"), ("/%2f..%2fa", "/a")],
    );
}

#[test]
fn malformed_targets() {
    takes(
        |target| normalize::is_malformed(target, Base),
        &[
            "",
            "a",
            "*",
            "http://a/b",
            "/a b",
            "/a#b",
            "/\u{e9}",
            "/a\tb",
            "/%00",
            "/a%00?b",
        ],
        &["/", "/a?b", "/%23", "/%20", "/a?%00", "/a;b"],
    );
    assert!(
        !normalize::is_malformed("/%00", Raw),
        "nothing is decoded, so nothing is found"
    );
}

#[test]
fn claim_paths() {
    for (written, path) in [
        ("[a]", Some(vec!["a"])),
        ("[a][b][c]", Some(vec!["a", "b", "c"])),
        ("[a.b/c]", Some(vec!["a.b/c"])),
        ("[a]b[c]", Some(vec!["a]b[c"])),
        ("[[a]]", Some(vec!["[a]"])),
        ("[]", None),
        ("[a", None),
        ("a]", None),
        ("", None),
    ] {
        assert_eq!(claims::path_in_brackets(written), path, "{written}");
    }
}
