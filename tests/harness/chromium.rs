//! A browser without a window, driven over the DevTools protocol: JSON objects, each ended by a
//! zero byte, through descriptors 3 and 4.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::wait_for_exit;
use super::{DEADLINE, skipped};

/// The shell gives it the descriptors, and becomes it.
const BECOME_BROWSER: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null";
const OPTIONS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
];

/// A browser that shows one page. Dropping it ends it.
pub struct Chromium {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<Value>,
    number: u64,
    session: Option<String>,
    /// What it told by itself.
    told: Vec<Value>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts it with an empty page; `None`, and the reason printed, where there is none.
    pub fn start() -> Option<Chromium> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join("chromium").is_file()) {
            skipped("chromium is not installed");
            return None;
        }
        let profile = tempfile::tempdir().expect("the temporary folder is writable");
        let mut command = Command::new("sh");
        command.args(["-c", BECOME_BROWSER, "chromium"]).args(OPTIONS);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sh is there");
        let requests = child.stdin.take().expect("piped");
        let answers = gather(BufReader::new(child.stdout.take().expect("piped")));
        let told = Vec::new();
        let number = 0;
        let mut browser =
            Chromium { child, requests, answers, number, session: None, told, _profile: profile };
        browser.attach();
        Some(browser)
    }

    fn attach(&mut self) {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", target)["sessionId"].clone();
        self.session = session.as_str().map(str::to_owned);
        for part in ["Page", "Runtime", "Log"] {
            self.call(&format!("{part}.enable"), json!({}));
        }
    }

    /// A command and its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut request = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        let line = format!("{request}\0");
        self.requests.write_all(line.as_bytes()).expect("the browser reads");
        let begun = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let answer = self.answers.recv_timeout(left);
            let mut answer = answer.unwrap_or_else(|error| panic!("{method}: {error}"));
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.told.push(answer);
        }
    }

    /// Shows an address.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let result = self.call("Runtime.evaluate", asked);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    pub fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.value(expression) != true {
            if begun.elapsed() > DEADLINE {
                panic!("never {expression}: {}", self.value("document.body.innerText"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A screen of so many pixels; below 500 it is a phone's, with two real ones for each.
    pub fn screen(&mut self, width: u32, height: u32) {
        let phone = width < 500;
        let scale = if phone { 2 } else { 1 };
        let screen = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone,
        });
        self.call("Emulation.setDeviceMetricsOverride", screen);
    }

    /// What the user prefers: `prefers-color-scheme` and the like.
    pub fn prefer(&mut self, features: &[(&str, &str)]) {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Presses a key: `Tab`, `Enter`.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            other => panic!("{other}: no such key here"),
        };
        let event = |kind| {
            let text = if kind == "keyDown" { text } else { "" };
            json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            })
        };
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", event(kind));
        }
    }

    /// Writes a picture of what is on the screen (PNG); its width in pixels.
    pub fn picture(&mut self, file: &Path) -> u32 {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let picture = from_base64(picture["data"].as_str().expect("a picture"));
        let mut written = File::create(file).expect("a folder for pictures");
        written.write_all(&picture).expect("room for a picture");
        u32::from_be_bytes(picture[16..20].try_into().expect("four bytes"))
    }

    /// Exceptions, errors on the console, things that could not be loaded.
    pub fn complaints(&self) -> Vec<&Value> {
        let is_error = |told: &&Value| match told["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => told["params"]["type"] == "error",
            Some("Log.entryAdded") => told["params"]["entry"]["level"] == "error",
            _ => false,
        };
        self.told.iter().filter(is_error).collect()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let close = json!({"id": 0, "method": "Browser.close"});
        // A failure means that it is gone.
        let _ = self.requests.write_all(format!("{close}\0").as_bytes());
        if wait_for_exit(&mut self.child, Duration::from_secs(5)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn gather(mut source: impl BufRead + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut message = Vec::new();
        while source.read_until(0, &mut message).is_ok_and(|length| length > 0) {
            message.pop_if(|last| *last == 0);
            let value = serde_json::from_slice(&message).unwrap_or_default();
            if sender.send(value).is_err() {
                return;
            }
            message.clear();
        }
    });
    receiver
}

fn from_base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let Some(value) = super::BASE64.iter().position(|known| *known == letter) else { continue };
        (bits, held) = (bits << 6 | value as u32, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

#[test]
fn base64_is_read_back() {
    for length in 0..5 {
        let bytes = super::pattern(length);
        assert_eq!(from_base64(&super::base64(&bytes)), bytes);
    }
}
