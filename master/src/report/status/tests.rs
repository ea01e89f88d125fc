use super::*;
use std::io::Read;

fn socket_in(folder: &tempfile::TempDir) -> (PathBuf, StatusSocket) {
    let path = folder.path().join("status");
    let socket = StatusSocket::bind(&path).unwrap();
    (path, socket)
}

#[test]
fn reader_gets_the_document_and_then_eof() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut socket) = socket_in(&folder);
    let mut reader = UnixStream::connect(path).unwrap();
    assert!(socket.answer(Instant::now(), || b"{}".to_vec()).is_empty());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "{}");
}

#[test]
fn document_larger_than_the_socket_s_room_arrives_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut socket) = socket_in(&folder);
    let mut reader = UnixStream::connect(path).unwrap();
    let slow = socket.answer(Instant::now(), || vec![b'x'; 4 << 20]);
    let [id] = slow[..] else { panic!("it fitted: nothing was tested") };
    let mut total = 0;
    let mut buffer = vec![0; 1 << 16];
    while let len @ 1.. = reader.read(&mut buffer).unwrap() {
        total += len;
        socket.resume(id);
    }
    assert_eq!(total, 4 << 20);
    assert!(socket.reader(id).is_none());
}

#[test]
fn readers_that_never_read_are_bounded_in_number_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut socket) = socket_in(&folder);
    let now = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..3 * MOST_READERS {
        clients.push(UnixStream::connect(&path).unwrap());
        socket.answer(now, || vec![b'x'; 4 << 20]);
    }
    assert_eq!(socket.readers.len(), MOST_READERS);
    assert_eq!(socket.deadline(), Some(now + PATIENCE));
    socket.expire(now + PATIENCE);
    assert!(socket.readers.is_empty());
}

fn answer_of(path: &Path, sockets: &mut [(&mut StatusSocket, &str)]) -> String {
    let mut reader = UnixStream::connect(path).unwrap();
    reader.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    for (socket, name) in sockets {
        socket.answer(Instant::now(), || name.as_bytes().to_vec());
    }
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn successor_takes_the_path_over_and_the_predecessor_takes_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut old) = socket_in(&folder);
    let mut new = StatusSocket::take_over(&path).unwrap();
    let aside = beside(&path, "old");
    let mut both = [(&mut old, "old"), (&mut new, "new")];
    assert_eq!(answer_of(&path, &mut both), "new");
    assert_eq!(answer_of(&aside, &mut both), "old");
    old.take_back();
    assert_eq!(answer_of(&path, &mut [(&mut old, "old")]), "old");
    new.remove();
    assert!(path.exists(), "it is not the successor's any more");
    old.remove();
    assert!(!path.exists() && !aside.exists());
}

#[test]
fn what_a_dead_predecessor_left_is_tidied() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = socket_in(&folder);
    let new = StatusSocket::take_over(&path).unwrap();
    drop(old);
    new.tidy();
    assert!(!beside(&path, "old").exists());
    new.remove();
    let fresh = StatusSocket::take_over(&path).unwrap();
    assert!(path.exists(), "without a predecessor's socket it is just bound");
    fresh.remove();
}

#[test]
fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (path, live) = socket_in(&folder);
    let refused = StatusSocket::bind(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    drop(live);
    assert!(path.exists());
    StatusSocket::bind(&path).unwrap();
}

#[test]
fn file_in_the_way_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("status");
    fs::write(&path, "precious").unwrap();
    StatusSocket::bind(&path).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn path_is_removed_only_while_it_is_this_socket_s() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = socket_in(&folder);
    fs::rename(&path, path.with_extension("kept")).unwrap();
    let new = StatusSocket::bind(&path).unwrap();
    old.remove();
    assert!(path.exists());
    new.remove();
    assert!(!path.exists());
}
