//! The connections of a worker. The loop names them by their place in the table, disk threads by a
//! name that no other connection ever has.

use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::clients::conn::Conn;
use crate::ids::ConnId;

/// All connections of a worker.
#[derive(Debug, Default)]
pub struct Table {
    conns: Slab<Entry>,
    /// How many there have been.
    arrived: u32,
}

#[derive(Debug)]
struct Entry {
    /// Which of all that ever were in this table.
    number: u32,
    conn: Conn,
}

impl Table {
    /// Takes a connection in. Returns its key: its place, which another has when it is gone.
    pub fn insert(&mut self, conn: Conn) -> usize {
        self.arrived = self.arrived.wrapping_add(1);
        self.conns.insert(Entry { number: self.arrived, conn })
    }

    /// Takes a connection out.
    pub fn remove(&mut self, key: usize) -> Option<Conn> {
        self.conns.try_remove(key).map(|entry| entry.conn)
    }

    /// The connection at a place.
    pub fn get(&self, key: usize) -> Option<&Conn> {
        self.conns.get(key).map(|entry| &entry.conn)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut Conn> {
        self.conns.get_mut(key).map(|entry| &mut entry.conn)
    }

    /// The name of a connection that leaves the loop for a while.
    pub fn id_of(&self, key: usize) -> ConnId {
        ConnId { place: key as u32, number: self.conns[key].number }
    }

    /// The key of a connection, unless it is gone.
    pub fn key_of(&self, id: ConnId) -> Option<usize> {
        let key = id.place as usize;
        self.conns.get(key).filter(|entry| entry.number == id.number).map(|_| key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// All, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Conn)> {
        self.conns.iter().map(|(key, entry)| (key, &entry.conn))
    }

    /// The keys of those of which something is true.
    pub fn keys_where(&self, is: impl Fn(&Conn) -> bool) -> Vec<usize> {
        self.iter().filter(|(_, conn)| is(conn)).map(|(key, _)| key).collect()
    }
}

/// For a key that is known to be taken.
impl Index<usize> for Table {
    type Output = Conn;

    fn index(&self, key: usize) -> &Conn {
        &self.conns[key].conn
    }
}

impl IndexMut<usize> for Table {
    fn index_mut(&mut self, key: usize) -> &mut Conn {
        &mut self.conns[key].conn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Service, SiteId};
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;

    fn conn(port: u16) -> Conn {
        let (socket, _) = UnixStream::pair().unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        Conn::new(socket.into(), peer, Service::Http, SiteId(0), Vec::new())
    }

    #[test]
    fn what_is_known_by_name_is_never_another() {
        let mut table = Table::default();
        let first = table.insert(conn(1));
        let name = table.id_of(first);
        assert_eq!(table.key_of(name), Some(first));
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        assert_eq!(table.key_of(name), None);
        let second = table.insert(conn(2));
        assert_eq!(first, second, "the place is taken again");
        assert_eq!(table.key_of(name), None);
        assert_ne!(table.id_of(second), name);
    }

    #[test]
    fn all_are_seen_with_their_keys() {
        let mut table = Table::default();
        assert!(table.is_empty());
        let keys = [7, 8, 9].map(|port| table.insert(conn(port)));
        table.remove(keys[1]);
        let ports: Vec<_> = table.iter().map(|(key, conn)| (key, conn.peer().port())).collect();
        assert_eq!(ports, [(keys[0], 7), (keys[2], 9)]);
        assert_eq!(table.keys_where(|conn| conn.peer().port() > 7), [keys[2]]);
        assert_eq!((table.len(), table[keys[0]].peer().port()), (2, 7));
    }

    #[test]
    fn entry_takes_little_room() {
        assert!(size_of::<Entry>() <= 120, "{}", size_of::<Entry>());
    }
}
