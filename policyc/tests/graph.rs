//! Who may reach whom, as data and as DOT: it says what the tables say, in every case of the corpus.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use policyc::{
    compile::compile,
    conformance::cases,
    engine,
    graph::{Family, Party, PartyKind, Reach, compare, dot, page},
    ir::Program,
    lower::cell::Decided,
    options::CatchAllDeny,
    read::{self, Input, Loaded},
    request::{
        Expected, IpSource, Judgement, Layer, Request, ServiceAccountSource, SourceRef, Wire,
    },
    resolve::resolve,
};

/// Loads and compiles manifests in memory.
fn compiled(text: &str) -> (Loaded, Program) {
    let (loaded, found) = read::load_str("a.yaml", text, None);
    assert_eq!(found, [], "the manifests are good");
    let program = compile(&loaded, CatchAllDeny::DenyAll, &BTreeMap::new()).expect("it compiles");
    (loaded, program)
}

/// A request from one party to the other, as plain bytes: nothing but the connection is known.
fn request(from: &Party, to: &Party, port: u16) -> Option<Request> {
    let name = |party: &Party| {
        let name = party.members.first().unwrap_or(&party.name);
        format!("{}/{name}", party.namespace)
    };
    let (src, src_ip) = match &from.kind {
        PartyKind::Workload(_) => (SourceRef::Pod(name(from)), None),
        PartyKind::Identity => {
            let sa = format!("{}/{}", from.namespace, from.service_account);
            (SourceRef::ServiceAccount(ServiceAccountSource { sa }), None)
        }
        PartyKind::Block => {
            let net: ipnet::IpNet = from.name.parse().expect("a block");
            (SourceRef::Ip(IpSource { ip: net.network() }), None)
        }
        PartyKind::Elsewhere => return None,
    };
    Some(Request {
        id: String::new(),
        src,
        src_ip,
        src_trust_domain: from
            .name
            .split_once(" of ")
            .map(|(_, domain)| domain.into()),
        dst: name(to),
        port,
        protocol: Wire::Tcp,
        http: None,
        sni: None,
        ext_authz: Some(BTreeMap::from([
            ("grpc".into(), policyc::request::Authorizer::Allow),
            ("web".into(), policyc::request::Authorizer::Allow),
        ])),
        expect: None,
    })
}

/// Whether the first address of a block is in another one that is narrower.
fn inside(block: &Party, other: &Party) -> bool {
    let net = |party: &Party| party.name.parse::<ipnet::IpNet>().ok();
    let (Some(block), Some(other)) = (net(block), net(other)) else {
        return false;
    };
    block != other && other.contains(&block.network()) && block.contains(&other)
}

#[test]
fn every_cell_is_what_the_table_says() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let (mut compared, mut asked) = (0, 0);
    for case in cases(&corpus).expect("the corpus") {
        let nowhere = |_: &policyc::diagnostic::At| (String::new(), 0);
        let options = &case.options;
        let program = resolve(
            &case.cluster,
            options.catch_all_deny,
            &options.jwks,
            &nowhere,
        );
        let program = program.expect("it resolves");
        let Ok(reach) = Reach::new(&program, &case.cluster) else {
            continue;
        };
        let mut wanted = Vec::new();
        let mut requests = Vec::new();
        for to in reach.destinations() {
            let listed = to.destination.iter().flat_map(|d| &d.ports);
            let ports: Vec<Option<u16>> = listed.map(|p| Some(p.port)).chain([None]).collect();
            for from in &reach.parties {
                // Two families are asked about by address, which a name cannot tell.
                if from.family == Some(Family::V6) || to.family == Some(Family::V6) {
                    continue;
                }
                // The first address of a block may be in a narrower one.
                if reach.parties.iter().any(|other| inside(from, other)) {
                    continue;
                }
                for port in &ports {
                    let cell = reach.cell(from, to, *port);
                    // A port that no list has.
                    if let (Some(cell), Some(request)) =
                        (cell, request(from, to, port.unwrap_or(64_999)))
                    {
                        wanted.push((cell, format!("{}: {from:?} {to:?} {port:?}", case.name)));
                        requests.push(request);
                    }
                }
            }
        }
        for ((cell, what), judged) in wanted.iter().zip(engine::judge(
            &program,
            &case.cluster,
            &requests,
            options.now,
        )) {
            // A policy asks for an address that is not known: that cannot be judged.
            let Ok(Judgement {
                verdict,
                layer,
                reason,
                ..
            }) = judged
            else {
                continue;
            };
            compared += 1;
            match cell.verdict {
                Decided::Ask => {
                    asked += 1;
                    assert_eq!(layer, Layer::L7, "{what}");
                }
                Decided::Allow => assert_eq!(
                    (verdict, layer, reason),
                    (Expected::Allow, Layer::L4, cell.cause),
                    "{what}"
                ),
                Decided::Deny => assert_eq!(
                    (verdict, layer, reason),
                    (Expected::Deny, Layer::L4, cell.cause),
                    "{what}"
                ),
            }
        }
    }
    assert!(
        compared > 500 && asked > 50,
        "{compared} compared, {asked} asked"
    );
}

#[test]
fn pods_are_found_by_the_workload_that_made_them() {
    let pod = |name: &str, labels: &str, ip: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, labels: {labels}}}\nspec: {{containers: [{{name: c}}]}}\nstatus: {{podIP: {ip}}}\n---\n"
        )
    };
    let deployment = |name: &str, labels: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: a}}\nspec: {{template: {{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: c}}]}}}}}}\n---\n"
        )
    };
    let text = [
        deployment("web", "{app: web}"),
        deployment("canary", "{app: web, track: canary}"),
        pod("web-1", "{app: web, pod-template-hash: abc}", "10.0.0.1"),
        pod("web-2", "{app: web, pod-template-hash: abc}", "10.0.0.2"),
        pod(
            "web-3",
            "{app: web, track: canary, pod-template-hash: abd}",
            "10.0.0.3",
        ),
        pod("alone", "{app: other}", "10.0.0.4"),
    ]
    .concat();
    // One pod of the two is in a block that a policy names, so a rule can tell them apart.
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: a}\nspec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.2/32]}}]}]}\n";
    let names = |text: &str| {
        let (loaded, program) = compiled(text);
        let reach = Reach::new(&program, &loaded.cluster).expect("it lowers");
        let name = |p: &Party| (p.name.clone(), p.members.clone());
        reach.parties.iter().map(name).collect::<Vec<_>>()
    };
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        names(&text),
        [
            ("alone".into(), list(&["alone"])),
            ("canary".into(), list(&["web-3"])),
            ("web".into(), list(&["web-1", "web-2"])),
            ("any other address".into(), list(&[])),
        ]
    );
    assert_eq!(
        names(&(text + policy)),
        [
            ("alone".into(), list(&["alone"])),
            ("canary".into(), list(&["web-3"])),
            ("web (web-1)".into(), list(&["web-1"])),
            ("web (web-2)".into(), list(&["web-2"])),
            ("10.0.0.2/32".into(), list(&[])),
            ("any other address".into(), list(&[])),
        ]
    );
}

#[test]
fn dot_shows_the_demo_and_what_its_last_step_changes() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo");
    let step = |n: u32| {
        let (loaded, found) = read::load(&[Input::Path(demo.join(format!("step-{n}")))], None);
        assert_eq!(found, []);
        let program =
            compile(&loaded, CatchAllDeny::DenyAll, &BTreeMap::new()).expect("it compiles");
        (loaded, program)
    };
    let ((before, old), (after, new)) = (step(1), step(4));
    let old = Reach::new(&old, &before.cluster).expect("it lowers");
    let new = Reach::new(&new, &after.cluster).expect("it lowers");
    insta::assert_snapshot!("dot-demo", dot::dot(&new, &[]));
    insta::assert_snapshot!(
        "dot-demo-changes",
        dot::dot(&new, &compare::differences(&old, &new))
    );
}

#[test]
fn differences_are_told_by_name_and_port() {
    let world = |rules: &str, selector: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: a}}\nspec: {{template: {{metadata: {{labels: {{app: web}}}}, spec: {{serviceAccountName: web, containers: [{{name: c, ports: [{{containerPort: 80, name: http}}, {{containerPort: 81, name: tcp}}]}}]}}}}}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: a}}\nspec: {{selector: {{matchLabels: {{app: {selector}}}}}, rules: [{rules}]}}\n"
        )
    };
    let told = |old: &str, new: &str| {
        let ((a, old), (b, new)) = (compiled(old), compiled(new));
        let old = Reach::new(&old, &a.cluster).expect("it lowers");
        let new = Reach::new(&new, &b.cluster).expect("it lowers");
        let party = |number: usize| new.parties[number].name.clone();
        compare::differences(&old, &new)
            .into_iter()
            .map(|d| (party(d.from), party(d.to), d.change, d.ports))
            .collect::<Vec<_>>()
    };
    let get = world(
        "{to: [{operation: {ports: [\"80\"], methods: [GET]}}]}",
        "web",
    );
    let post = world(
        "{to: [{operation: {ports: [\"80\"], methods: [POST]}}]}",
        "web",
    );
    let block = world(
        "{from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: [\"80\"], methods: [GET]}}]}",
        "web",
    );
    let none = world("{}", "nobody");
    let everybody = ["web", "any other address"];
    let all = |change, ports: &[Option<u16>]| {
        everybody.map(|from| (from.into(), "web".into(), change, ports.to_vec()))
    };
    assert_eq!(told(&get, &get), []);
    assert_eq!(
        told(&get, &get.replace("name: p,", "name: q,")),
        [],
        "names decide nothing"
    );
    assert_eq!(
        told(&get, &post),
        all(compare::Change::Reworded, &[Some(80)])
    );
    let rest = [None, Some(80), Some(81)];
    assert_eq!(told(&none, &get), all(compare::Change::Closed, &rest));
    assert_eq!(told(&get, &none), all(compare::Change::Opened, &rest));
    // The block lay in "any other address" before, and may do no less now.
    assert_eq!(
        told(&get, &block),
        all(compare::Change::Closed, &[Some(80)])
    );
    assert_eq!(
        told(&world("", "web"), &block),
        [(
            "10.0.0.0/8".into(),
            "web".into(),
            compare::Change::Opened,
            vec![Some(80)]
        )]
    );
}

/// Ten thousand policies, each with a rule of its own, for two thousand workloads.
fn large() -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for n in 0..2_000 {
        let (namespace, app) = (n / 20, n % 20);
        let _ = write!(
            text,
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: app-{app}, namespace: ns-{namespace}}}\nspec: {{template: {{metadata: {{labels: {{app: app-{app}}}}}, spec: {{serviceAccountName: app-{app}, containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}}}}}\n---\n"
        );
        for p in 0..5 {
            let _ = write!(
                text,
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: app-{app}-{p}, namespace: ns-{namespace}}}\nspec: {{selector: {{matchLabels: {{app: app-{app}}}}}, rules: [{{from: [{{source: {{principals: [cluster.local/ns/ns-{namespace}/sa/app-{}]}}}}], to: [{{operation: {{methods: [GET], paths: [/api/{n}/{p}/*]}}}}]}}]}}\n---\n",
                (app + p * 3 + 1) % 20
            );
        }
    }
    text
}

#[test]
fn the_page_of_ten_thousand_policies_is_small_and_the_same_each_time() {
    const BYTES_MAX: usize = 5_000_000;
    let text = large();
    let make = || {
        let (loaded, program) = compiled(&text);
        assert_eq!(program.policies.len(), 10_000);
        let reach = Reach::new(&program, &loaded.cluster).expect("it lowers");
        page::page(&reach, Some(&reach)).expect("a page")
    };
    let page = make();
    println!("{} bytes", page.len());
    assert!(
        page.len() <= BYTES_MAX,
        "{} bytes, with an old side",
        page.len()
    );
    assert!(page == make(), "the same input gives the same bytes");
}

#[test]
fn the_command_draws_from_manifests_and_from_a_bundle() {
    let folder = tempfile::tempdir().expect("a folder");
    let demo: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo");
    let run = |args: &[&str]| {
        let mut policyc = Command::new(env!("CARGO_BIN_EXE_policyc"));
        policyc.args(args).current_dir(folder.path());
        let output = policyc.output().expect("policyc runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let step = |n: u32| demo.join(format!("step-{n}")).display().to_string();
    let (code, _, errors) = run(&["compile", "-f", &step(1), "-o", "old.bin"]);
    assert_eq!(code, Some(0), "{errors}");
    let (code, from_bundle, errors) = run(&["graph", "-f", &step(4), "--old", "old.bin"]);
    assert_eq!(code, Some(0), "{errors}");
    let (_, from_manifests, _) = run(&["graph", "-f", &step(4), "--old", &step(1)]);
    assert_eq!(from_bundle, from_manifests);
    assert!(from_bundle.contains("closed: "), "{from_bundle}");
    let (code, out, errors) = run(&["graph", "-f", &step(4), "--html", "page.html"]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{errors}");
    let page = fs::read_to_string(folder.path().join("page.html")).expect("a page");
    assert!(page.starts_with("<!doctype html>"));
    fs::write(folder.path().join("bad.bin"), b"POLICYC\0rest").expect("a file");
    for old in ["bad.bin", "missing"] {
        let (code, _, errors) = run(&["graph", "-f", &step(4), "--old", old]);
        assert_ne!(code, Some(0), "{errors}");
        assert!(errors.contains(old), "{errors}");
    }
}
