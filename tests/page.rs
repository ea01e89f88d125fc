//! The status page in a real browser, beside a real node.
//!
//! Pictures of it are left in the folder for temporary files of the target folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Chromium, Mode, Node, STATUS_FD, Setup, SlowFs, can_mount, disk_of, fid_path, has_fuse,
    skipped, until,
};

/// How soon a stall is on the page after the status pipe has told of it.
const SOON: Duration = Duration::from_secs(2);
/// What a row says of its device.
const ROWS: &str = "Object.fromEntries([...document.querySelectorAll('#devices tbody')]
    .map(body => [body.querySelector('.name'), body.querySelector('.state')]
        .map(one => one.textContent)))";
/// What has the focus, in a word.
const FOCUS: &str = "(one => one.getAttribute('aria-label')?.split(',')[0]
    ?? [one.closest('section')?.id, one.matches('button, a') ? one.textContent : '']
    .filter(Boolean).join(' '))(document.activeElement)";

/// Thirty-six devices of which one hangs, and three that are going to be sick too.
struct Ward {
    disk: SlowFs,
    node: Node,
}

fn ward() -> Option<Ward> {
    if !has_fuse() || !can_mount() {
        skipped("no mounts without root and /dev/fuse");
        return None;
    }
    let setup = Setup::new().devices(36).workers("4").arg("--stall-timeout=1");
    let setup = setup.arg("--statuslisten=127.0.0.1:0").env("MOG_DISK_USAGE_INTERVAL", "1");
    let disk = SlowFs::mount(&setup.folder().join("dev1"));
    let memory = |n| format!("mount -t tmpfs -o size=1m none {{dir}}/dev{n}");
    let node = (2..=4).fold(setup, |setup, n| setup.mount(&memory(n))).start();
    for device in 1..=36 {
        node.client().put(&fid_path(device, 1), "content").expect(201);
    }
    Some(Ward { disk, node })
}

impl Ward {
    /// What can be wrong with a disk that does not hang.
    fn sicken(&self) {
        let node = &self.node;
        node.in_its_mounts("dd if=/dev/zero of={dir}/dev2/filler bs=4k || true").unwrap();
        node.client().put("/dev2/more", vec![7; 100 * 1024]).expect(507);
        node.in_its_mounts("mount -o remount,ro {dir}/dev3; umount -l {dir}/dev4").unwrap();
        assert!(node.client().put("/dev3/b", "b").status >= 400);
        let asked = || node.client().get(&fid_path(4, 1)).status;
        until("dev4 to be missed", || asked() == 503);
    }

    /// The browser, with the page.
    fn page(&self, browser: &mut Chromium) {
        browser.screen(1280, 900);
        browser.open(&format!("http://{}/", self.node.address("status")));
        browser.until("document.querySelectorAll('#devices tbody').length === 36");
    }
}

#[test]
fn each_state_is_on_the_page_and_a_stall_within_two_seconds() {
    let Some(mut browser) = Chromium::start() else { return };
    let Some(ward) = ward() else { return };
    ward.page(&mut browser);
    assert_eq!(sum(&mut browser), "36 devices: 36 ok");
    ward.sicken();
    browser.until(&format!("{ROWS}.dev2 === 'full'"));
    browser.until(&format!("{ROWS}.dev3 === 'read-only' && {ROWS}.dev4 === 'unmounted'"));
    stall(&ward, &mut browser);
    let rows = browser.value(ROWS);
    let names: Vec<&String> = rows.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 36);
    let wrong = "36 devices: 32 ok, 1 stalled, 1 unmounted, 1 read-only, 1 full";
    browser.until(&format!("document.querySelector('#device-sum').textContent === '{wrong}'"));
    let first = "[...document.querySelectorAll('#devices .name')].slice(0, 5).map(
        name => name.textContent).join(' ')";
    assert_eq!(browser.value(first), "dev1 dev4 dev3 dev2 dev5", "the worst first");
    if disk_of(ward.node.docroot()).is_some() {
        browser.until("document.querySelectorAll('#devices .busy')[9].textContent.includes('%')");
    }
    pictures(&mut browser, "sick");
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
    ward.disk.set(Mode::Work);
    browser.until(&format!("{ROWS}.dev1 === 'ok'"));
    drop(ward);
    browser.until("!document.querySelector('#cut').hidden");
    let words = browser.value("document.querySelector('#cut').textContent");
    let words = words.as_str().unwrap();
    assert!(words.contains("Connection lost at ") && words.contains("as of "), "{words}");
    browser.picture(&picture("lost-1280-light"));
}

/// Hangs dev1, with a client that waits for it.
fn stall(ward: &Ward, browser: &mut Chromium) {
    ward.disk.set(Mode::Hang);
    let mut waiting = ward.node.client();
    waiting.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", fid_path(1, 1)));
    ward.node.event("device_stalled");
    let told = Instant::now();
    browser.until(&format!("{ROWS}.dev1 === 'stalled'"));
    let took = told.elapsed();
    println!("on the page {took:?} after the event");
    assert!(took < SOON, "{took:?}");
    browser.until("document.querySelector('#events').textContent.includes('dev1 stalled')");
    waiting.answer().expect(503);
}

fn sum(browser: &mut Chromium) -> Value {
    browser.value("document.querySelector('#device-sum').textContent")
}

fn picture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}

/// Both widths, light and dark: nothing is cut off at the side.
fn pictures(browser: &mut Chromium, what: &str) {
    for (width, height) in [(1280, 900), (390, 844)] {
        for scheme in ["light", "dark"] {
            browser.screen(width, height);
            browser.prefer(&[("prefers-color-scheme", scheme)]);
            let over =
                "document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.value(over), 0, "{width}");
            let dark = "getComputedStyle(document.documentElement).backgroundColor";
            let ground = browser.value(dark);
            assert_eq!(ground == "rgb(14, 18, 22)", scheme == "dark", "{ground}");
            let drawn = browser.picture(&picture(&format!("{what}-{width}-{scheme}")));
            assert_eq!(drawn, if width < 500 { 2 * width } else { width });
        }
    }
    browser.screen(1280, 900);
    browser.prefer(&[]);
}

#[test]
fn page_is_walked_with_the_keyboard_and_keeps_still_for_who_wants_that() {
    let Some(mut browser) = Chromium::start() else { return };
    let node = Setup::new().devices(3).arg("--statuslisten=127.0.0.1:0").start();
    browser.screen(1280, 900);
    browser.open(&format!("http://{}/", node.address("status")));
    browser.until("document.querySelectorAll('#devices tbody').length === 3");
    pictures(&mut browser, "well");
    let mut walked = Vec::new();
    for _ in 0..20 {
        browser.press("Tab");
        walked.push(browser.value(FOCUS).as_str().unwrap_or_default().to_owned());
        let ring = browser.value("getComputedStyle(document.activeElement).outlineStyle");
        assert_ne!(ring, "none", "{walked:?}");
    }
    let heads = ["State", "Device", "Used", "Busy", "In flight", "Oldest", "Errors", "Since"];
    let devices: Vec<String> = ["3 ok"]
        .into_iter()
        .chain(heads)
        .chain(["dev1", "dev2", "dev3"])
        .map(|name| format!("devices {name}"))
        .collect();
    let charts = ["Requests/s", "Latency of", "Latency", "Bodies", "Errors/s"];
    let order = ["To the devices"].into_iter().chain(charts).map(str::to_owned).chain(devices);
    let order: Vec<String> = order.chain(["events", "workers"].map(str::to_owned)).collect();
    assert_eq!(walked, order);
    browser.value("document.querySelector('.name').focus()");
    browser.press("Enter");
    let opened = "document.querySelector('.name').getAttribute('aria-expanded') === 'true'
        && !document.querySelector('.more').hidden";
    browser.until(opened);
    let moving = "document.getAnimations().length";
    assert_ne!(browser.value(moving), 0);
    browser.prefer(&[("prefers-reduced-motion", "reduce")]);
    browser.until("document.getAnimations().length === 0");
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
}

/// Names of folders are an operator's to choose, and nothing that the browser obeys.
#[test]
fn markup_in_names_is_text() {
    let Some(mut browser) = Chromium::start() else { return };
    let setup = Setup::bare();
    let docroot = "<img src=x onerror=document.title=1>";
    fs::create_dir_all(setup.folder().join(docroot).join("dev1")).unwrap();
    let args = ["--httplisten=127.0.0.1:0", "--mgmtlisten=127.0.0.1:0", STATUS_FD];
    let setup = args.into_iter().fold(setup, Setup::arg).arg("--statuslisten=127.0.0.1:0");
    let node = setup.arg(&format!("--docroot={{dir}}/{docroot}")).start();
    browser.open(&format!("http://{}/", node.address("status")));
    browser.until("document.querySelectorAll('#devices tbody').length === 1");
    let inside = |place: &str| {
        format!("document.querySelector('{place}').textContent.includes({docroot:?})")
    };
    browser.until(&inside("#devices"));
    browser.until(&inside("#facts"));
    assert_eq!(browser.value("document.images.length"), 0);
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
}
