//! The connections of a worker. The loop names them by their place in the table; what comes back
//! from a disk thread is for the connection that has the same loan there, and for no other.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use slab::Slab;

use crate::clients::conn::{Conn, State};
use crate::disk::completions::Client;

/// All connections of a worker.
#[derive(Debug, Default)]
pub struct Table(Slab<Conn>);

impl Table {
    /// Takes a connection in. Returns its key: its place, which another has when it is gone.
    pub fn insert(&mut self, conn: Conn) -> usize {
        self.0.insert(conn)
    }

    /// Takes a connection out.
    pub fn remove(&mut self, key: usize) -> Option<Conn> {
        self.0.try_remove(key)
    }

    /// The connection at a place.
    pub fn get(&self, key: usize) -> Option<&Conn> {
        self.0.get(key)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut Conn> {
        self.0.get_mut(key)
    }

    /// The connection that a disk thread has had, unless it is gone or has been taken back.
    pub fn lent(&mut self, client: &Client) -> Option<&mut Conn> {
        let is_it = |conn: &&mut Conn| match conn.state() {
            State::Lent(loan) => Arc::ptr_eq(loan, &client.loan),
            _ => false,
        };
        self.0.get_mut(client.key).filter(is_it)
    }

    /// Gives memory back that the last ones in the table have left.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Conn)> {
        self.0.iter()
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
        &self.0[key]
    }
}

impl IndexMut<usize> for Table {
    fn index_mut(&mut self, key: usize) -> &mut Conn {
        &mut self.0[key]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::loan::{Loan, Stage, Style};
    use crate::spec::{DeviceKey, Service, SiteId};
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;

    fn conn(port: u16) -> Conn {
        let (socket, _) = UnixStream::pair().unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        Conn::new(socket.into(), peer, Service::Http, SiteId(0), Vec::new())
    }

    fn lend(table: &mut Table, key: usize) -> Client {
        let device = DeviceKey { site: SiteId(0), devid: 1 };
        let loan = Arc::new(Loan::new(device, Style::Http(false), Stage::Fresh, 0, false));
        table[key].enter(State::Lent(Arc::clone(&loan)));
        Client { key, loan }
    }

    #[test]
    fn what_comes_back_is_for_the_connection_that_was_lent_and_no_other() {
        let mut table = Table::default();
        let first = table.insert(conn(1));
        let client = lend(&mut table, first);
        assert_eq!(table.lent(&client).unwrap().peer().port(), 1);
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        assert!(table.lent(&client).is_none());
        let second = table.insert(conn(2));
        assert_eq!(first, second, "the place is taken again");
        assert!(table.lent(&client).is_none());
        let other = lend(&mut table, second);
        assert!(table.lent(&client).is_none(), "it is another loan");
        assert!(table.lent(&other).is_some());
        table[second].enter(State::Lingering(1));
        assert!(table.lent(&other).is_none(), "it was taken back");
    }

    #[test]
    fn what_the_last_ones_leave_is_given_back() {
        let mut table = Table::default();
        let keys: Vec<_> = (0..100).map(|port| table.insert(conn(port))).collect();
        keys[10..].iter().rev().for_each(|key| drop(table.remove(*key)));
        table.shrink();
        assert!(table.0.capacity() < 20);
        assert_eq!(table.len(), 10);
        assert_eq!(table.insert(conn(7)), keys[10]);
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
}
