//! Upgrades under clients that are not ours, each of which keeps its connections: wrk, curl,
//! Python's http.client, Perl's Net::HTTP, and nginx in front.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};

use crate::chain::Chain;
use crate::harness::{Setup, skipped};
use crate::nginx::{self, Nginx};

const PYTHON: &str = r#"
import http.client, sys, time
client = http.client.HTTPConnection(sys.argv[1])
client.connect()
client.auto_open = 0
for number in range(int(sys.argv[2])):
    body = b"%d" % number * 1000
    for method, wanted in (("PUT", 201), ("GET", 200), ("DELETE", 204)):
        client.request(method, "/dev1/python", body=body if method == "PUT" else None)
        answer = client.getresponse()
        assert answer.status == wanted, (method, answer.status)
        content = answer.read()
        assert method != "GET" or content == body
    time.sleep(0.01)
"#;

const PERL: &str = r#"
use strict; use Net::HTTP;
my ($address, $count) = @ARGV;
my $client = Net::HTTP->new(Host => $address, KeepAlive => 1) or die $@;
for my $number (1 .. $count) {
    my $sent = $number x 1000;
    for my $method ("PUT", "GET", "DELETE") {
        $client->write_request($method => "/dev1/perl", $method eq "PUT" ? $sent : ()) or die $!;
        my ($code, $message, %head) = $client->read_response_headers;
        die "$method: $code" if $code >= 300;
        die "closes" if lc $head{Connection} eq "close";
        my $content = "";
        while ($code != 204) {
            my $read = $client->read_entity_body(my $piece, 4096);
            die $! unless defined $read;
            last unless $read;
            $content .= $piece;
        }
        die "content" if $method eq "GET" && $content ne $sent;
    }
    select undef, undef, undef, 0.01;
}
"#;

/// For wrk: one of three is a PUT.
const LUA: &str = r#"
local number = 0
request = function()
  number = number + 1
  if number % 3 == 0 then return wrk.format("PUT", "/dev2/wrk" .. number % 100, nil, "content") end
  return wrk.format("GET", "/dev1/a")
end
"#;

fn is_there(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

fn node() -> Chain {
    let chain = Chain::start(Setup::new());
    chain.node.store("/dev1/a", vec![b'a'; 10_000]);
    chain
}

fn accepted(chain: &Chain) -> u64 {
    chain.node.status()["totals"]["accepted"].as_u64().unwrap()
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it can be run")
}

/// Upgrades and reloads in turn until the client has done its work. What it printed.
fn beside_upgrades(chain: &Chain, mut client: Child) -> String {
    let mut upgrades = 0;
    while client.try_wait().unwrap().is_none() {
        chain.upgrade();
        upgrades += 1;
        let seen = chain.seen();
        kill(chain.master(), Signal::SIGHUP).unwrap();
        chain.node.event_after(seen, "reloaded");
    }
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(upgrades >= 3, "{upgrades} upgrades");
    println!("{upgrades} upgrades");
    text
}

fn wrk(address: impl ToString, script: &Path) -> Child {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c10", "-d4s", "-s"]).arg(script);
    start(wrk.arg(format!("http://{}/dev1/a", address.to_string())))
}

fn wrk_is_content(output: &str) {
    assert!(!output.contains("Socket errors") && !output.contains("Non-2xx"), "{output}");
    let line = output.lines().find(|line| line.contains("requests in")).expect("its summary");
    println!("wrk: {}", line.trim());
}

#[test]
fn wrk_reconnects_never() {
    if !is_there("wrk", &["-v"]) {
        return skipped("no wrk here");
    }
    let chain = node();
    let script = chain.path("script.lua");
    fs::write(&script, LUA).unwrap();
    let output = beside_upgrades(&chain, wrk(chain.node.http(), &script));
    wrk_is_content(&output);
    assert!(accepted(&chain) <= 11, "ten, and one to try the address");
}

#[test]
fn nginx_in_front_answers_no_502() {
    if !Path::new(nginx::BINARY).exists() || !is_there("wrk", &["-v"]) {
        return skipped("no nginx or no wrk here");
    }
    let chain = node();
    let script = chain.path("script.lua");
    fs::write(&script, LUA).unwrap();
    let nginx = Nginx::start(&chain.node);
    let output = beside_upgrades(&chain, wrk(nginx.address, &script));
    wrk_is_content(&output);
    assert!(nginx.errors().is_empty(), "{}", nginx.errors());
}

#[test]
fn curl_connects_once() {
    if !is_there("curl", &["--version"]) {
        return skipped("no curl here");
    }
    let chain = node();
    let address = format!("http://{}/dev1/a", chain.node.http());
    let mut curl = Command::new("curl");
    curl.args(["--rate", "30/s"]);
    for number in 0..90 {
        if number > 0 {
            curl.arg("--next");
        }
        curl.args(["-sSf", "-o", "/dev/null", "-w", "%{num_connects}\\n", &address]);
    }
    let output = beside_upgrades(&chain, start(&mut curl));
    assert_eq!(output, format!("1\n{}", "0\n".repeat(89)));
}

#[test]
fn http_client_of_python_connects_once() {
    if !is_there("python3", &["-c", ""]) {
        return skipped("no python3 here");
    }
    let chain = node();
    let address = chain.node.http().to_string();
    let mut python = Command::new("python3");
    beside_upgrades(&chain, start(python.args(["-c", PYTHON, &address, "200"])));
    assert_eq!(accepted(&chain), 1);
}

#[test]
fn net_http_of_perl_connects_once() {
    let mut try_it = Command::new("perl");
    let try_it = try_it.args(["-MNet::HTTP", "-e", "1"]).stderr(Stdio::null());
    if !try_it.status().is_ok_and(|status| status.success()) {
        return skipped("no Net::HTTP of Perl here");
    }
    let chain = node();
    let address = chain.node.http().to_string();
    let mut perl = Command::new("perl");
    beside_upgrades(&chain, start(perl.args(["-e", PERL, &address, "200"])));
    assert_eq!(accepted(&chain), 1);
}
