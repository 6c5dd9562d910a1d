//! When one rule covers another: every request that matches the second matches the first.

use super::{
    fields::{Field, Part, condition, operation, source},
    rule::has_http,
    value::Values,
};
use crate::ast::Rule;

type Fields<'a> = Vec<Field<'a>>;

/// A rule taken apart once, to be compared with many others.
pub struct Parts<'a> {
    from: Option<Vec<Fields<'a>>>,
    to: Option<Vec<Fields<'a>>>,
    when: Vec<Fields<'a>>,
    http: bool,
}

impl<'a> Parts<'a> {
    pub fn new(rule: &'a Rule) -> Self {
        let nowhere = Part::NOWHERE;
        let from = rule.from.as_ref();
        let to = rule.to.as_ref();
        let when = rule.when.iter().flatten();
        Self {
            from: from.map(|list| list.iter().map(|s| source(s, nowhere).collect()).collect()),
            to: to.map(|list| {
                list.iter()
                    .map(|o| operation(o, nowhere).collect())
                    .collect()
            }),
            when: when.map(|c| condition(c, nowhere).collect()).collect(),
            http: has_http(rule),
        }
    }

    pub fn has_http(&self) -> bool {
        self.http
    }

    /// How many values it has in all.
    pub fn values(&self) -> usize {
        let lists = self.from.iter().chain(&self.to).flatten().chain(&self.when);
        lists.flatten().map(|field| field.values.len()).sum()
    }

    /// Whether every request that matches `narrow` matches this rule.
    pub fn cover(&self, narrow: &Self, values: Values<'_>) -> bool {
        // Cheap looks first: most rules differ in what they ask for at all.
        let may = (self.from.is_none() || narrow.from.is_some())
            && (self.to.is_none() || narrow.to.is_some())
            && (self.when.is_empty() || !narrow.when.is_empty());
        may && list_covers(&self.from, &narrow.from, values)
            && list_covers(&self.to, &narrow.to, values)
            && self.when.iter().all(|wide| {
                let mut narrow = narrow.when.iter();
                narrow.any(|narrow| fields_cover(wide, narrow, values))
            })
    }
}

/// No list matches everything; otherwise each of the narrow parts is covered by a wide one.
fn list_covers(
    wide: &Option<Vec<Fields<'_>>>,
    narrow: &Option<Vec<Fields<'_>>>,
    values: Values<'_>,
) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow
            .iter()
            .all(|n| wide.iter().any(|w| fields_cover(w, n, values))),
    }
}

/// Each field of the wide part is in the narrow one, and is stricter there.
fn fields_cover(wide: &Fields<'_>, narrow: &Fields<'_>, values: Values<'_>) -> bool {
    wide.iter().all(|w| {
        let same = narrow
            .iter()
            .find(|n| n.name == w.name && n.negative == w.negative);
        same.is_some_and(|n| match w.negative {
            false => n
                .values
                .iter()
                .all(|nv| w.values.iter().any(|wv| values.cover(w.name, wv, nv))),
            // What the wide part excludes the narrow one must exclude as well.
            true => w
                .values
                .iter()
                .all(|wv| n.values.iter().any(|nv| values.cover(w.name, nv, wv))),
        })
    })
}
