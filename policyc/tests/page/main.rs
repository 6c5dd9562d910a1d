//! The page of `policyc graph --html` in a real browser: clicked, walked by keys, filtered, printed.
//! `POLICYC_SCREENSHOTS=folder` keeps what is to be seen.

mod chromium;
mod walk;
mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use chromium::{Tab, browser};
use serde_json::json;

/// A page of these manifests, drawn over others if there are any.
fn page(folder: &Path, name: &str, manifests: &str, old: Option<&str>) -> PathBuf {
    let file = |suffix: &str, text: &str| {
        let file = folder.join(format!("{name}{suffix}"));
        fs::write(&file, text).expect("a file");
        file
    };
    let page = folder.join(format!("{name}.html"));
    let mut policyc = Command::new(env!("CARGO_BIN_EXE_policyc"));
    policyc.args(["graph", "-f"]).arg(file(".yaml", manifests));
    policyc.arg("--html").arg(&page);
    if let Some(old) = old {
        policyc.arg("--old").arg(file("-old.yaml", old));
    }
    let output = policyc.output().expect("policyc runs");
    assert!(output.status.success(), "{output:?}");
    page
}

/// Two shops, and the same before three policies were changed.
fn shops() -> (String, String) {
    let now = world::shops(2);
    let old = now
        .replace("sa/users\"", "sa/web\"")
        .replace("methods: [POST], ", "");
    (now, old)
}

fn label(tab: &mut Tab<'_>) -> String {
    let label = tab.value("document.activeElement.getAttribute('aria-label')");
    label.as_str().unwrap_or_default().to_owned()
}

#[test]
fn cells_tell_who_decides_and_why() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (now, old) = shops();
    let page = page(folder.path(), "small", &now, Some(&old));
    let mut tab = browser.open(&page, 1440, 900);
    tab.picture("matrix");
    assert_eq!(
        tab.count("[role=rowheader]"),
        19,
        "18 workloads and the outside"
    );
    assert_eq!(tab.count("[role=gridcell]"), 19 * 18);
    assert_eq!(
        tab.count("[role=grid] [role=gridcell][tabindex='0']"),
        1,
        "one tab stop"
    );
    // cart -> orders: by request on 8080, nothing else; before, the kernel let it through.
    tab.click(".cell[data-r='2'][data-c='4']");
    tab.picture("cell");
    let panel = tab.text("#panel");
    for part in [
        "cart",
        "orders",
        "8080",
        "userspace",
        "was kernel",
        "every other port",
        "denied",
        "shop-0/orders",
        "small.yaml:",
        "rule 0",
        "method is POST",
        "principal is cluster.local/ns/shop-0/sa/cart",
        "--from shop-0/cart --to shop-0/orders --port 8080",
    ] {
        assert!(panel.contains(part), "no `{part}` in: {panel}");
    }
    assert_eq!(tab.count(".cell.selected"), 1);
    // users -> users-db was opened, web -> users-db closed.
    assert_eq!(tab.count(".cell.opened"), 2, "one in each shop");
    assert_eq!(tab.count(".cell.closed"), 4);
    for (key, view) in [("2", "graph"), ("3", "list"), ("4", "changes")] {
        tab.key(key);
        tab.picture(view);
    }
    let changes = tab.text("#view");
    assert!(
        changes.contains("shop-0/users \u{2192} shop-0/users-db"),
        "{changes}"
    );
    assert_eq!(tab.complaints(), [] as [String; 0]);
}

#[test]
fn every_thing_can_be_done_by_keys() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let page = page(folder.path(), "keys", &shops().0, None);
    let mut tab = browser.open(&page, 1440, 900);
    // Search leads to the matrix, and its arrows through it.
    tab.key("/");
    tab.write("cart > orders");
    assert_eq!(tab.count("[role=rowheader]"), 2, "the carts of both shops");
    assert_eq!(
        tab.count(".row [role=gridcell]"),
        2 * 4,
        "orders and their databases"
    );
    tab.key("Enter");
    assert_eq!(
        label(&mut tab),
        "shop-0/cart to shop-0/orders: 8080: userspace; every other port: denied"
    );
    tab.key("ArrowRight");
    assert_eq!(
        label(&mut tab),
        "shop-0/cart to shop-0/orders-db: every port: denied"
    );
    tab.key("ArrowDown");
    tab.key("Home");
    assert_eq!(
        label(&mut tab),
        "shop-1/cart to shop-0/orders: every port: denied"
    );
    tab.key("ArrowUp");
    tab.key("ArrowUp");
    tab.key("Enter");
    assert!(tab.text("#panel").contains("method is POST"));
    // The focus stays where it was when details open.
    assert!(label(&mut tab).starts_with("shop-0/cart to shop-0/orders:"));
    tab.key("Escape");
    assert!(tab.text("#panel").contains("Choose a pair"));
    tab.key("?");
    assert_eq!(tab.value("document.getElementById('help').open"), true);
    tab.picture("help");
    tab.key("Escape");
    assert_eq!(tab.value("document.getElementById('help').open"), false);
    // The graph: from workload to workload, and into one.
    tab.value("document.getElementById('clear').click()");
    tab.key("2");
    tab.wait("document.querySelectorAll('.node').length === 19");
    tab.value("document.querySelector('.node').focus()");
    let first = label(&mut tab);
    tab.key("ArrowRight");
    assert_ne!(label(&mut tab), first);
    tab.key("Enter");
    tab.picture("ego");
    let view = tab.text("#view");
    assert!(
        view.contains("May reach it") && view.contains("It may reach"),
        "{view}"
    );
    assert_eq!(tab.complaints(), [] as [String; 0]);
}

#[test]
fn filters_leave_what_is_asked_for() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (now, old) = shops();
    let page = page(folder.path(), "filters", &now, Some(&old));
    let mut tab = browser.open(&page, 1440, 900);
    let check = |tab: &mut Tab<'_>, input: &str, rows: u64, columns: u64| {
        tab.value(&format!("document.querySelector({input:?}).click()"));
        let found = (tab.count("[role=rowheader]"), tab.count(".column"));
        assert_eq!(found, (rows, columns), "after {input}");
    };
    // Only what userspace judges: cart by web, orders by cart, in both shops.
    check(&mut tab, "[data-verdict='1']", 19, 12);
    check(&mut tab, "[data-verdict='0']", 4, 4);
    assert_eq!(tab.count(".cell:not(.dim)"), 4);
    check(&mut tab, "#clear", 19, 18);
    check(&mut tab, "#changed-only", 6, 4);
    check(&mut tab, "#clear", 19, 18);
    check(&mut tab, "[data-namespace='shop-1']", 10, 9);
    check(&mut tab, "#clear", 19, 18);
    tab.value("(() => { const p = document.getElementById('port'); p.value = '5432'; p.onchange({target: p}); })()");
    let first = tab.value("document.querySelector('.cell').getAttribute('aria-label')");
    assert_eq!(first, "shop-0/admin to shop-0/admin: 5432: kernel");
    tab.value("document.getElementById('clear').click()");
    // Alike sources are one row: within a shop nobody is like another, outside of it nobody matters.
    let before = tab.count(".column");
    tab.key("g");
    assert!(
        tab.count(".column") < before,
        "destinations under no policy are alike"
    );
    assert_eq!(tab.complaints(), [] as [String; 0]);
}

#[test]
fn it_is_dark_where_the_system_is_and_can_be_told_otherwise() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let page = page(folder.path(), "dark", &shops().0, None);
    let mut tab = browser.open(&page, 1200, 800);
    let bright = |tab: &mut Tab<'_>| {
        let color = tab.value("getComputedStyle(document.body).backgroundColor");
        let numbers = color.as_str().expect("a colour").to_owned();
        let first: u32 = numbers
            .trim_start_matches("rgb(")
            .split(',')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number");
        first > 128
    };
    let system = |tab: &mut Tab<'_>, scheme: &str| {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        tab.call("Emulation.setEmulatedMedia", features);
    };
    system(&mut tab, "light");
    assert!(bright(&mut tab));
    system(&mut tab, "dark");
    assert!(!bright(&mut tab));
    tab.picture("dark");
    tab.key("t");
    assert!(bright(&mut tab), "light is asked for");
    system(&mut tab, "light");
    tab.key("t");
    assert!(!bright(&mut tab), "dark is asked for");
    // Text and its background differ enough (WCAG AA) in both.
    for theme in ["light", "dark"] {
        let worst = tab.value(&format!(
            "document.documentElement.dataset.theme = '{theme}'; ({CONTRAST})()"
        ));
        let worst = worst.as_f64().expect("a ratio");
        assert!(worst >= 4.5, "{theme}: {worst}");
    }
    assert_eq!(tab.complaints(), [] as [String; 0]);
}

/// The lowest contrast of any colour that text has with any background that it may have.
const CONTRAST: &str = "() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const probe = document.createElement('i');
    probe.style.color = style.getPropertyValue(name).trim();
    document.body.append(probe);
    const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    probe.remove();
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const pairs = [];
  for (const text of ['--ink', '--quiet', '--kernel', '--userspace', '--refused', '--accent'])
    for (const back of ['--page', '--sheet', '--pointed']) pairs.push(ratio(text, back));
  for (const change of ['opened', 'closed', 'reworded']) pairs.push(ratio('--' + change, '--' + change + '-soft'));
  return Math.min(...pairs);
}";

#[test]
fn on_paper_it_is_a_list_in_words() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let page = page(folder.path(), "paper", &shops().0, None);
    let mut tab = browser.open(&page, 1200, 800);
    let pdf = tab.pdf();
    assert!(
        pdf.starts_with(b"%PDF") && pdf.len() > 8_000,
        "{} bytes",
        pdf.len()
    );
    if let Some(kept) = std::env::var_os("POLICYC_SCREENSHOTS") {
        fs::write(Path::new(&kept).join("paper.pdf"), &pdf).expect("it is kept");
    }
    // What was made for the paper is still there, and says the same.
    tab.call("Emulation.setEmulatedMedia", json!({"media": "print"}));
    let paper = tab.text("#print");
    tab.picture("paper");
    assert!(paper.contains("8080: userspace"), "{paper}");
    assert!(paper.contains("shop-0/web"), "{paper}");
    assert_eq!(
        tab.value("getComputedStyle(document.querySelector('main')).display"),
        "none"
    );
    assert_eq!(tab.complaints(), [] as [String; 0]);
}

#[test]
fn names_are_never_markup() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let evil = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">";
    let manifests = json!([
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": evil, "namespace": evil},
         "spec": {"template": {"metadata": {"labels": {"app": "a"}}, "spec": {"serviceAccountName": evil, "containers": [{"name": "c", "image": "i"}]}}}},
        {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": "istio-system"},
         "spec": {"rules": [{"from": [{"source": {"principals": [evil, "cluster.local/ns/<b>/sa/<i>"]}}],
                             "to": [{"operation": {"paths": ["/a"]}}]},
                            {"to": [{"operation": {"hosts": ["<img src=x onerror=alert(1)>"]}}]}]}},
    ]);
    let manifests: Vec<String> = manifests
        .as_array()
        .expect("a list")
        .iter()
        .map(ToString::to_string)
        .collect();
    let page = page(
        folder.path(),
        "<b>evil&amp;",
        &manifests.join("\n---\n"),
        None,
    );
    let text = fs::read_to_string(&page).expect("a page");
    assert_eq!(text.matches("</script>").count(), 2, "the frame's own");
    let mut tab = browser.open(&page, 1200, 800);
    tab.click(".cell[data-r='0'][data-c='0']");
    tab.picture("evil");
    assert!(
        tab.text("#panel").contains(evil),
        "the name is shown as it is"
    );
    assert!(tab.text("#panel").contains("<img src=x onerror=alert(1)>"));
    for key in ["2", "3", "1"] {
        tab.key(key);
    }
    assert_eq!(tab.value("document.title"), "Who may reach whom");
    assert_eq!(tab.count("img"), 0);
    assert_eq!(tab.count("script"), 2);
    assert_eq!(tab.complaints(), [] as [String; 0]);
}

#[test]
fn nothing_but_its_own_script_runs_and_nothing_is_loaded() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let page = page(folder.path(), "policy", &shops().0, None);
    let mut tab = browser.open(&page, 1200, 800);
    tab.value(
        "(() => { window.ran = false; const s = document.createElement('script'); \
         s.textContent = 'window.ran = true'; document.body.append(s); \
         const i = new Image(); i.src = 'https://example.invalid/x.png'; document.body.append(i); })()",
    );
    assert_eq!(tab.value("window.ran"), false);
    let mut refused = tab.complaints();
    // The browser tells of the request that it was asked for and did not make.
    refused.retain(|c| !c.starts_with("asked for https://example.invalid"));
    assert!(
        refused
            .iter()
            .all(|c| c.contains("Content Security Policy")),
        "{refused:?}"
    );
    assert_eq!(refused.len(), 2, "the script and the picture: {refused:?}");
}

#[test]
fn two_thousand_workloads_open_and_scroll() {
    let Some(mut browser) = browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let now = world::shops(223);
    let old = now.replace("sa/users\"", "sa/web\"");
    let page = page(folder.path(), "large", &now, Some(&old));
    let mut tab = browser.open(&page, 1440, 900);
    assert!(tab.text("#summary").contains("2,007 workloads"));
    tab.picture("large");
    // Only what is in sight has elements.
    let elements = tab.count("*");
    assert!(elements < 12_000, "{elements} elements");
    tab.click(".cell[data-r='0'][data-c='0']");
    tab.value("document.querySelector('.cell.selected').focus()");
    // Generous bounds for busy machines: a page that drew everything would take minutes.
    let took = tab.value(
        "(async () => { const grid = document.querySelector('.matrix'); const start = performance.now(); \
         for (let i = 1; i <= 30; i++) { grid.scrollTop = i * grid.scrollHeight / 30; grid.scrollLeft = i * grid.scrollWidth / 30; \
         await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame); } return performance.now() - start; })()",
    );
    println!("30 steps of scrolling: {took} ms");
    assert!(took.as_f64().expect("a time") < 30_000.0, "{took} ms");
    // The focus is not lost when its cell is out of sight, and keys go on from there.
    tab.key("ArrowDown");
    assert!(
        label(&mut tab).starts_with("shop-0/cart to shop-0/admin"),
        "{}",
        label(&mut tab)
    );
    tab.value("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', ctrlKey: true, bubbles: true}))");
    assert!(
        label(&mut tab).starts_with("any other address to "),
        "{}",
        label(&mut tab)
    );
    tab.key("2");
    tab.wait("document.querySelectorAll('.node').length === 224");
    tab.picture("large-graph");
    for key in ["3", "4", "1"] {
        tab.key(key);
    }
    tab.key("/");
    tab.write("shop-77/cart");
    tab.wait("document.querySelector('.source').innerText.includes('cart')");
    assert!(
        tab.value("document.querySelector('.source').innerText")
            .as_str()
            .is_some_and(|t| t.contains("shop-77"))
    );
    tab.picture("large-search");
    assert_eq!(tab.complaints(), [] as [String; 0]);
}
