use super::*;

fn key(site: u8, devid: u32) -> DeviceKey {
    DeviceKey { site: SiteId(site), devid }
}

#[test]
fn devices_are_found_in_spite_of_collisions() {
    let board = Scoreboard::new().unwrap();
    let twins = [key(0, 5), key(0, 5 + MAX_DEVICES as u32), key(1, 5)];
    for (n, k) in twins.iter().enumerate() {
        board.list_device(*k, WorkerId(n as u16)).unwrap();
    }
    for (n, k) in twins.iter().enumerate() {
        assert_eq!(board.device(*k).unwrap().owner(), WorkerId(n as u16));
    }
    assert!(board.device(key(0, 6)).is_none());
    board.forget_device(twins[1], true);
    let left: Vec<_> = board.devices().into_iter().map(|(k, _)| k).collect();
    assert_eq!(left, [twins[0], twins[2]]);
}

#[test]
fn full_table_refuses_without_losing_anything() {
    let board = Scoreboard::new().unwrap();
    for devid in 1..=MAX_DEVICES as u32 {
        assert!(board.list_device(key(0, devid), WorkerId(0)).is_some());
    }
    assert!(board.list_device(key(3, 9), WorkerId(0)).is_none());
    assert_eq!(board.devices().len(), MAX_DEVICES);
}

#[test]
fn usage_is_read_as_it_was_published() {
    let board = Scoreboard::new().unwrap();
    let slot = board.list_device(key(0, 1), WorkerId(0)).unwrap();
    assert_eq!(slot.usage(), None);
    let source = "/dev/disk/by-id/some-long-name-0123456789".to_owned();
    let usage = Usage { available: 1, total: 3, used: 2, time: 4, source };
    slot.publish(&usage, Some((259, 7)));
    assert_eq!(slot.usage(), Some(usage.clone()));
    assert_eq!(slot.disk(), Some((259, 7)));
    board.forget_device(key(0, 1), true);
    board.list_device(key(0, 1), WorkerId(0)).unwrap();
    assert_eq!(slot.usage(), None);
}

#[test]
fn numbers_of_one_look_stay_together() {
    let board = Scoreboard::new().unwrap();
    let slot = board.list_device(key(0, 1), WorkerId(0)).unwrap();
    let usage = |n| Usage { available: n, total: n, used: n, time: n, source: n.to_string() };
    slot.publish(&usage(1), None);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..20_000).for_each(|n| slot.publish(&usage(n), None)));
        while !writer.is_finished() {
            if let Ok(seen) = slot.consistent_usage() {
                let seen = seen.unwrap();
                assert_eq!(seen, usage(seen.time));
            }
        }
    });
}

#[test]
fn last_path_is_kept_whole_up_to_the_longest() {
    let slot = WorkerSlot::default();
    let longest = "/dev16777215/0/000/000/01234567890123456789.fid";
    slot.note_path(longest.as_bytes());
    assert_eq!(slot.last_path(), longest);
    slot.note_path(b"/dev1/x");
    assert_eq!(slot.last_path(), "/dev1/x");
}
