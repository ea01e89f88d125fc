use super::*;
use std::io::{BufRead, BufReader, PipeReader};

fn pipe() -> (BufReader<PipeReader>, EventPipe) {
    let (reader, writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let events = EventPipe::open(OwnedFd::from(writer).into_raw_fd()).unwrap();
    (BufReader::new(reader), events)
}

fn next(reader: &mut impl BufRead) -> serde_json::Value {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn started(devices: usize) -> Event<'static> {
    let devices = vec!["dev16777215".to_owned(); devices];
    Event::WorkerStarted { worker: 1, pid: 7, devices }
}

#[test]
fn event_is_a_line_with_its_time() {
    let (mut reader, mut events) = pipe();
    events.tell(&Event::WorkerExited {
        worker: 3,
        pid: 70,
        status: None,
        signal: Some(9),
        last_path: "/dev1/x".to_owned(),
    });
    let mut line = next(&mut reader);
    let time = line.as_object_mut().unwrap().remove("time").unwrap();
    assert!(time.as_f64().unwrap() > 1.7e9);
    let expected = serde_json::json!({"event": "worker_exited", "worker": 3, "pid": 70,
        "status": null, "signal": 9, "last_path": "/dev1/x"});
    assert_eq!(line, expected);
}

#[test]
fn slow_reader_loses_lines_and_is_told_how_many() {
    let (mut reader, mut events) = pipe();
    for _ in 0..10_000 {
        events.tell(&Event::Draining { by: "a test" });
    }
    let lost = events.lost;
    assert!(lost > 0, "the pipe held them all: nothing was tested");
    for _ in 0..10_000 - lost {
        assert_eq!(next(&mut reader)["event"], "draining");
        events.push();
    }
    events.tell(&Event::Stopped);
    let told = next(&mut reader);
    assert_eq!((&told["event"], told["lines"].as_u64()), (&"lost".into(), Some(lost)));
    assert_eq!(next(&mut reader)["event"], "stopped");
}

#[test]
fn line_longer_than_the_pipe_arrives_whole() {
    let (mut reader, mut events) = pipe();
    let writer = std::thread::spawn(move || {
        events.tell(&started(20_000));
        while !events.push() {
            std::thread::yield_now();
        }
    });
    assert_eq!(next(&mut reader)["devices"].as_array().unwrap().len(), 20_000);
    writer.join().unwrap();
}

#[test]
fn reader_that_is_gone_ends_it_quietly() {
    let (reader, mut events) = pipe();
    drop(reader);
    events.tell(&Event::Draining { by: "a test" });
    assert!(events.deserted);
    events.tell(&Event::Stopped);
    assert!(events.push());
}

/// /dev/full refuses every write with ENOSPC; the pipe then takes what is told afterwards.
#[test]
fn file_without_room_loses_lines_and_tells_how_many_later() {
    let (mut reader, mut events) = pipe();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let pipe = events.out.replace(full);
    for _ in 0..3 {
        events.tell(&Event::Draining { by: "a test" });
        assert!(events.push(), "nothing is to be tried again at once");
    }
    events.out = pipe;
    events.tell(&Event::Stopped);
    let told = next(&mut reader);
    assert_eq!((&told["event"], told["lines"].as_u64()), (&"lost".into(), Some(3)));
    assert_eq!(next(&mut reader)["event"], "stopped");
}

#[test]
fn number_that_is_not_open_for_writing_is_refused() {
    assert!(EventPipe::open(999_999).is_none());
    let (reader, _writer) = io::pipe().unwrap();
    fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    assert!(EventPipe::open(OwnedFd::from(reader).into_raw_fd()).is_none());
}
