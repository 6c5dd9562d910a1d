//! What a request says beyond source, destination and port, as fields that can be chosen one by one:
//! each field's atoms, the combinations of them that some value makes true, and such a value.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    rc::Rc,
};

use ipnet::IpNet;

use super::strings::{self, Class, Domain, Piece};
use crate::{
    cluster::PathNormalization,
    headers,
    ir::{Atom, AtomId, PathPattern, Pattern},
};

/// Something that a client chooses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Field {
    Method,
    /// The path and the query.
    Target,
    Authority,
    Sni,
    /// Claims `iss` and `sub`.
    Token,
    /// The client's address, by the element of X-Forwarded-For counted from the right.
    Client(u32),
    Header(String),
    /// A header, or `:path`, as CUSTOM rules see it: before tokens are taken out.
    Early(String),
    /// A header that only a verified token sets.
    Output(String),
    Claim(Vec<String>),
    /// Not for the client to choose.
    Fixed(bool),
}

/// How an atom is meant where its text alone does not say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Variant {
    Early,
    Output,
    Forwarded(u32),
}

/// The atoms of both programs, and their variants behind them.
#[derive(Debug)]
pub(super) struct Atoms<'a> {
    written: &'a [Atom],
    variants: Vec<(AtomId, Variant)>,
    numbers: HashMap<(AtomId, Variant), AtomId>,
    pub modes: [PathNormalization; 2],
}

/// One value of a field, and the atoms that it makes true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    pub true_: Vec<AtomId>,
    pub value: Value,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Value {
    Absent,
    Text(String),
    /// Issuer and subject; several strings are a list.
    Token(Vec<String>, Vec<String>),
    Address(IpAddr),
}

/// All combinations of one field's atoms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cells {
    pub atoms: Vec<AtomId>,
    pub cells: Vec<Cell>,
}

impl Field {
    /// Several values may be there at once: lines of a header, members of a list.
    pub fn holds_several(&self) -> bool {
        match self {
            Self::Header(name) | Self::Early(name) => {
                !headers::is_joined(name) && !name.starts_with(':')
            }
            Self::Output(_) | Self::Claim(_) => true,
            _ => false,
        }
    }
}

impl<'a> Atoms<'a> {
    pub fn new(written: &'a [Atom], modes: [PathNormalization; 2]) -> Self {
        Self {
            written,
            variants: Vec::new(),
            numbers: HashMap::new(),
            modes,
        }
    }

    pub fn variant(&mut self, atom: AtomId, variant: Variant) -> AtomId {
        let next = self.written.len() + self.variants.len();
        let next = AtomId(u32::try_from(next).unwrap_or(u32::MAX));
        *self.numbers.entry((atom, variant)).or_insert_with(|| {
            self.variants.push((atom, variant));
            next
        })
    }

    /// The atom as it was written.
    pub fn get(&self, id: AtomId) -> Option<&'a Atom> {
        self.parts(id).0
    }

    fn parts(&self, id: AtomId) -> (Option<&'a Atom>, Option<Variant>) {
        match id.index().checked_sub(self.written.len()) {
            None => (self.written.get(id.index()), None),
            Some(behind) => match self.variants.get(behind) {
                Some((atom, variant)) => (self.written.get(atom.index()), Some(*variant)),
                None => (None, None),
            },
        }
    }

    /// The field that decides an atom. One about the connection is decided before and never asked.
    pub fn field(&self, id: AtomId) -> Field {
        let (Some(atom), variant) = self.parts(id) else {
            return Field::Fixed(false);
        };
        match (atom, variant) {
            (Atom::Method(_), _) => Field::Method,
            (Atom::Host(_), _) => Field::Authority,
            (Atom::Path(_), _) => Field::Target,
            (Atom::Sni(_), _) => Field::Sni,
            (Atom::RequestPrincipal { .. }, _) => Field::Token,
            (Atom::Claim { path, .. }, _) => match path.as_slice() {
                [one] if one == "iss" || one == "sub" => Field::Token,
                _ => Field::Claim(path.clone()),
            },
            (Atom::RemoteIp(_), Some(Variant::Forwarded(back))) => Field::Client(back),
            (Atom::Header { name, .. }, Some(Variant::Early)) => Field::Early(name.clone()),
            (Atom::Header { name, .. }, Some(Variant::Output)) => Field::Output(name.clone()),
            (Atom::Header { name, value }, _) => match name.as_str() {
                ":method" => Field::Method,
                ":path" => Field::Target,
                ":authority" | "host" => Field::Authority,
                // What the proxy speaks with its clients.
                ":scheme" => Field::Fixed(*value == Pattern::Present || value.matches("http")),
                _ => Field::Header(name.clone()),
            },
            _ => Field::Fixed(false),
        }
    }

    /// Whether one value of a field that holds several may satisfy both.
    pub fn may_meet(&self, one: AtomId, other: AtomId) -> bool {
        use Pattern::{Exact, Prefix, Suffix};
        if self.field(one) != self.field(other) {
            return false;
        }
        let pattern = |id: AtomId| match self.get(id) {
            Some(Atom::Header { value, .. } | Atom::Claim { value, .. }) => Some(value),
            _ => None,
        };
        match (pattern(one), pattern(other)) {
            (Some(Exact(text)), Some(pattern)) | (Some(pattern), Some(Exact(text))) => {
                pattern.matches(text) || *pattern == Pattern::Present
            }
            (Some(Prefix(a)), Some(Prefix(b))) => a.starts_with(b) || b.starts_with(a),
            (Some(Suffix(a)), Some(Suffix(b))) => a.ends_with(b) || b.ends_with(a),
            _ => true,
        }
    }

    /// The combinations of these atoms of a field; `None` when there are too many.
    pub fn cells(&self, field: &Field, atoms: &[AtomId]) -> Option<Cells> {
        let cells = match field {
            Field::Token => self.token_cells(atoms)?,
            Field::Client(_) => self.client_cells(atoms),
            Field::Fixed(_) => Vec::new(),
            _ => self.text_cells(field, atoms)?,
        };
        Some(Cells {
            atoms: atoms.to_vec(),
            cells,
        })
    }

    fn text_cells(&self, field: &Field, atoms: &[AtomId]) -> Option<Vec<Cell>> {
        let (domain, may_lack, usual): (_, _, &[&str]) = match field {
            Field::Method => (
                Domain::Word,
                false,
                &["GET", "POST", "PUT", "DELETE", "PATCH"],
            ),
            Field::Target => (Domain::Target(self.modes), false, &["/"]),
            Field::Early(name) if name == ":path" => (Domain::Target(self.modes), false, &["/"]),
            Field::Authority => (Domain::Text, true, &["example.com", "example.org"]),
            Field::Sni => (Domain::Text, true, &["example.com", "example.org"]),
            _ => (Domain::Text, true, &[]),
        };
        let patterns: Option<Vec<strings::Pattern>> =
            atoms.iter().map(|a| pattern(self.get(*a)?)).collect();
        let patterns = patterns?;
        let mut cells = Vec::new();
        if may_lack {
            cells.push(Cell {
                true_: Vec::new(),
                value: Value::Absent,
            });
        }
        for mut cell in strings::cells(&patterns, domain)? {
            let same = |text: &&&str| strings::matching(&patterns, text) == cell.matches;
            if let Some(usual) = usual.iter().find(same) {
                cell.witness = (*usual).into();
            }
            if may_lack && cell.matches.is_empty() {
                continue;
            }
            cells.push(Cell {
                true_: chosen(atoms, &cell.matches),
                value: Value::Text(cell.witness),
            });
        }
        Some(cells)
    }

    /// A claim may be a string, or a list of which any element counts for rules about the claim and
    /// none for rules about the request's principal.
    fn token_cells(&self, atoms: &[AtomId]) -> Option<Vec<Cell>> {
        let issuers = self.claim_cells(atoms, "iss")?;
        let subjects = self.claim_cells(atoms, "sub")?;
        let mut cells: Vec<Cell> = Vec::new();
        for (issuer, issuer_atoms) in &issuers {
            for (subject, subject_atoms) in &subjects {
                let holds = |atom: &&AtomId| match self.get(**atom) {
                    Some(Atom::RequestPrincipal { .. }) => {
                        issuer_atoms.contains(atom) && subject_atoms.contains(atom)
                    }
                    _ => issuer_atoms.contains(atom) || subject_atoms.contains(atom),
                };
                let true_: Vec<AtomId> = atoms.iter().filter(holds).copied().collect();
                if cells.iter().any(|c| c.true_ == true_) {
                    continue;
                }
                let value = match true_.is_empty() {
                    true => Value::Absent,
                    false => Value::Token(issuer.clone(), subject.clone()),
                };
                cells.push(Cell { true_, value });
            }
        }
        (cells.len() <= CELLS_MAX).then_some(cells)
    }

    /// The strings of one claim with the atoms that they satisfy.
    fn claim_cells(
        &self,
        atoms: &[AtomId],
        claim: &str,
    ) -> Option<Vec<(Vec<String>, BTreeSet<AtomId>)>> {
        let mut of = Vec::new();
        let mut patterns = Vec::new();
        let mut listed = BTreeSet::new();
        for &atom in atoms {
            let pattern = match self.get(atom)? {
                Atom::RequestPrincipal { issuer, subject } => {
                    if claim == "iss" {
                        issuer
                    } else {
                        subject
                    }
                }
                Atom::Claim { path, value } if path.first().is_some_and(|p| p == claim) => {
                    listed.insert(atom);
                    value
                }
                _ => continue,
            };
            of.push(atom);
            patterns.push(text(pattern, NOT_EMPTY));
        }
        let mut cells: Vec<(Vec<String>, BTreeSet<AtomId>)> = Vec::new();
        for cell in strings::cells(&patterns, Domain::Text)? {
            let true_ = chosen(&of, &cell.matches).into_iter().collect();
            cells.push((vec![cell.witness], true_));
        }
        if listed.is_empty() {
            return Some(cells);
        }
        let singles: Vec<(Vec<String>, BTreeSet<AtomId>)> = cells
            .iter()
            .map(|(text, atoms)| (text.clone(), atoms & &listed))
            .collect();
        let mut lists: Vec<(Vec<String>, BTreeSet<AtomId>)> =
            vec![(vec!["".into(), "".into()], BTreeSet::new())];
        let mut at = 0;
        while let Some((texts, atoms)) = lists.get(at).cloned() {
            for (text, more) in &singles {
                let union = &atoms | more;
                if !lists.iter().any(|(_, known)| *known == union) {
                    lists.push(([texts.clone(), text.clone()].concat(), union));
                }
            }
            if lists.len() > CELLS_MAX {
                return None;
            }
            at += 1;
        }
        cells.extend(lists);
        Some(cells)
    }

    fn client_cells(&self, atoms: &[AtomId]) -> Vec<Cell> {
        let net = |atom: &AtomId| match self.get(*atom) {
            Some(Atom::RemoteIp(net) | Atom::SourceIp(net)) => Some((*atom, *net)),
            _ => None,
        };
        let nets: Vec<(AtomId, IpNet)> = atoms.iter().filter_map(net).collect();
        let mut cells: Vec<Cell> = Vec::new();
        for (address, true_) in addresses(&nets) {
            if !cells.iter().any(|c| c.true_ == true_) {
                let value = Value::Address(address);
                cells.push(Cell { true_, value });
            }
        }
        cells
    }
}

/// Combinations of one field that are counted one by one.
const CELLS_MAX: usize = 4_096;

/// One address of every piece that the blocks cut the address space into, with the blocks that hold
/// it. An address that no block holds comes first.
pub(super) fn addresses(nets: &[(AtomId, IpNet)]) -> Vec<(IpAddr, Vec<AtomId>)> {
    let nobody: [IpAddr; 2] = [
        std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    ];
    let mut points: Vec<IpAddr> = nobody.to_vec();
    points.extend([
        IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED),
        std::net::Ipv6Addr::UNSPECIFIED.into(),
    ]);
    for (_, net) in nets {
        points.push(net.network());
        points.extend(after(net.broadcast()));
    }
    let mut pieces: Vec<(IpAddr, Vec<AtomId>)> = Vec::new();
    let mut known = BTreeSet::new();
    for point in points {
        let mut holding: Vec<AtomId> = nets
            .iter()
            .filter(|(_, net)| net.contains(&point))
            .map(|(atom, _)| *atom)
            .collect();
        holding.sort_unstable();
        if known.insert((point.is_ipv6(), holding.clone())) {
            pieces.push((point, holding));
        }
    }
    pieces.sort_by_key(|(address, holding)| (holding.len(), address.is_ipv6()));
    pieces
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|a| IpAddr::V4(a.into())),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|a| IpAddr::V6(a.into())),
    }
}

fn chosen(atoms: &[AtomId], numbers: &[usize]) -> Vec<AtomId> {
    let mut chosen: Vec<AtomId> = numbers
        .iter()
        .filter_map(|n| atoms.get(*n))
        .copied()
        .collect();
    chosen.sort_unstable();
    chosen
}

/// What `*` means for fields that want a character.
const NOT_EMPTY: &[Piece] = &[Piece::One(Class::Any), Piece::Many(Class::Any)];
/// What `*` means where an empty value is there, too.
const ANY: &[Piece] = &[Piece::Many(Class::Any)];

fn text(pattern: &Pattern, present: &[Piece]) -> strings::Pattern {
    let any = Piece::Many(Class::Any);
    strings::Pattern::new(match pattern {
        Pattern::Exact(text) => strings::Pattern::literal(text),
        Pattern::Prefix(text) => {
            let mut pieces = strings::Pattern::literal(text);
            pieces.push(any);
            pieces
        }
        Pattern::Suffix(text) => {
            let mut pieces = vec![any];
            pieces.extend(strings::Pattern::literal(text));
            pieces
        }
        Pattern::Present => present.to_vec(),
    })
}

/// The pattern of a text field's atom.
fn pattern(atom: &Atom) -> Option<strings::Pattern> {
    Some(match atom {
        Atom::Method(p) => text(p, ANY),
        Atom::Header { value, .. } => text(value, ANY),
        Atom::Sni(p) => text(p, NOT_EMPTY),
        Atom::Claim { value, .. } => text(value, NOT_EMPTY),
        Atom::Host(p) => strings::Pattern {
            fold: true,
            ..text(p, ANY)
        },
        Atom::Path(PathPattern::Plain(p)) => strings::Pattern {
            before_query: true,
            ..text(p, NOT_EMPTY)
        },
        Atom::Path(PathPattern::Template(t)) => strings::Pattern {
            before_query: true,
            ..strings::Pattern::new(template(t))
        },
        _ => return None,
    })
}

fn template(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{**}") {
            pieces.push(Piece::Many(Class::Path));
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{*}") {
            pieces.extend([Piece::One(Class::Segment), Piece::Many(Class::Segment)]);
            rest = after;
        } else {
            pieces.push(Piece::Char(c));
            rest = rest.get(c.len_utf8()..).unwrap_or("");
        }
    }
    pieces
}

/// Whether some value, or some several where the field holds several, makes all of `true_` true and
/// none of `false_`; and which.
pub(super) fn values(
    cells: &Cells,
    several: bool,
    wanted: &[(AtomId, bool)],
) -> Option<Vec<Value>> {
    let of = |truth: bool| {
        wanted
            .iter()
            .filter(move |(_, t)| *t == truth)
            .map(|(a, _)| *a)
    };
    let spoils = |cell: &Cell| of(false).any(|atom| cell.true_.contains(&atom));
    let clean: Vec<&Cell> = cells.cells.iter().filter(|cell| !spoils(cell)).collect();
    if !several {
        let all = |cell: &&&Cell| of(true).all(|atom| cell.true_.contains(&atom));
        return clean.iter().find(all).map(|cell| vec![cell.value.clone()]);
    }
    let mut values = Vec::new();
    for atom in of(true) {
        let cell = clean.iter().find(|cell| cell.true_.contains(&atom))?;
        if !values.contains(&cell.value) {
            values.push(cell.value.clone());
        }
    }
    Some(values)
}

/// Remembers the combinations of what was asked before.
#[derive(Debug, Default)]
pub(super) struct Known {
    cells: HashMap<(Field, Vec<AtomId>), Option<Rc<Cells>>>,
}

impl Known {
    pub fn cells(&mut self, atoms: &Atoms<'_>, field: &Field, of: &[AtomId]) -> Option<Rc<Cells>> {
        let key = (field.clone(), of.to_vec());
        let made = || atoms.cells(field, of).map(Rc::new);
        self.cells.entry(key).or_insert_with(made).clone()
    }
}
