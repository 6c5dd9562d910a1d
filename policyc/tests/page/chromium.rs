//! A headless Chromium that is driven over its debugging pipe: JSON messages, each ended by a zero
//! byte, on file descriptors 3 and 4. No port is opened, and nothing but the standard library and
//! JSON is needed.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Generous: the machine may be busy with other things.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: Receiver<Value>,
    number: u64,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// The browser, or `None` with a reason printed where there is none. With `CI=true` that is a failure.
pub fn browser() -> Option<Browser> {
    let Some(program) = program() else {
        let reason = "skipped: no chromium on this machine; `cargo xtask setup` installs it";
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{reason}"
        );
        println!("{reason}");
        return None;
    };
    Some(Browser::start(&program))
}

fn program() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut all = std::env::split_paths(&paths).flat_map(|f| names.map(|name| f.join(name)));
    all.find(|path| path.is_file())
}

impl Browser {
    fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().expect("a folder for the profile");
        // The shell hands its own pipes on under the numbers that the browser expects.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
                "sh",
            ])
            .arg(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("chromium starts");
        let input = child.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, output) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while lines.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let value = serde_json::from_slice(&message).expect("the browser speaks JSON");
                if send.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        Self {
            child,
            input,
            output,
            number: 0,
            events: Vec::new(),
            _profile: profile,
        }
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut message = json!({"id": number, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).expect("the browser listens");
        let end = Instant::now() + ANSWER_WITHIN;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(mut answer) if answer["id"] == number => {
                    assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                    return answer["result"].take();
                }
                Ok(event) => self.events.push(event),
                Err(RecvTimeoutError::Timeout) => panic!("{method}: no answer in time"),
                Err(RecvTimeoutError::Disconnected) => panic!("{method}: the browser has ended"),
            }
        }
    }

    /// Opens a file in a tab of its own, of that size, and waits until it is loaded.
    pub fn open(&mut self, file: &Path, width: u32, height: u32) -> Tab<'_> {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"}));
        let attached = self.call(
            None,
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        let session = attached["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        let mut tab = Tab {
            browser: self,
            session,
        };
        for domain in [
            "Page.enable",
            "Runtime.enable",
            "Log.enable",
            "Network.enable",
        ] {
            tab.call(domain, json!({}));
        }
        tab.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        );
        tab.browser.events.clear();
        tab.call(
            "Page.navigate",
            json!({"url": format!("file://{}", file.display())}),
        );
        tab.wait("document.readyState === 'complete'");
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A browser that is gone already is as good as one that is ended here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Tab<'b> {
    browser: &'b mut Browser,
    session: String,
}

impl Tab<'_> {
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.browser
            .call(Some(&self.session.clone()), method, params)
    }

    /// The value of an expression.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", params);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].take()
    }

    pub fn text(&mut self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({selector:?})?.innerText"));
        match found {
            Value::String(text) => text,
            other => panic!("`{selector}` has no text: {other}"),
        }
    }

    pub fn count(&mut self, selector: &str) -> u64 {
        let count = self.value(&format!("document.querySelectorAll({selector:?}).length"));
        count.as_u64().expect("a number")
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        let end = Instant::now() + ANSWER_WITHIN;
        while self.value(expression) != true {
            assert!(Instant::now() < end, "never true: {expression}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks in the middle of the first element that the selector means.
    pub fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const r = document.querySelector({selector:?}).getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            self.call(
                "Input.dispatchMouseEvent",
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1}),
            );
        }
    }

    /// Presses one key: a letter, or a name such as `ArrowDown`.
    pub fn key(&mut self, key: &str) {
        let text = match key {
            "Enter" => "\r",
            one if one.chars().count() == 1 => one,
            _ => "",
        };
        // What the browser itself does on a key goes by its number.
        let number = match key {
            "Enter" => 13,
            "Escape" => 27,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => 0,
        };
        let mut down = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": number});
        if !text.is_empty() {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": number});
        self.call("Input.dispatchKeyEvent", up);
    }

    pub fn write(&mut self, text: &str) {
        for letter in text.chars() {
            self.key(&letter.to_string());
        }
    }

    /// What the page complained about, and every request that it made beside itself.
    pub fn complaints(&mut self) -> Vec<String> {
        // What was said before now has been heard after this answer.
        self.value("0");
        let told = self.browser.events.iter().filter_map(|event| {
            let what = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(what["exceptionDetails"].to_string()),
                "Log.entryAdded" => Some(what["entry"].to_string()),
                "Runtime.consoleAPICalled" => Some(what.to_string()),
                "Network.requestWillBeSent" => {
                    let url = what["request"]["url"].as_str().unwrap_or_default();
                    (!url.starts_with("file://")).then(|| format!("asked for {url}"))
                }
                _ => None,
            }
        });
        told.collect()
    }

    /// A picture of what is to be seen, as PNG. Kept where `POLICYC_SCREENSHOTS` names a folder.
    pub fn picture(&mut self, name: &str) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let png = STANDARD.decode(shot["data"].as_str().expect("a picture"));
        let png = png.expect("base64");
        if let Some(folder) = std::env::var_os("POLICYC_SCREENSHOTS") {
            let file = Path::new(&folder).join(format!("{name}.png"));
            std::fs::write(file, &png).expect("the picture is kept");
        }
        png
    }

    /// The page on paper.
    pub fn pdf(&mut self) -> Vec<u8> {
        let pdf = self.call("Page.printToPDF", json!({}));
        let pdf = STANDARD.decode(pdf["data"].as_str().expect("a document"));
        pdf.expect("base64")
    }
}
