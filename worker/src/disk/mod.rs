//! Everything that touches a disk.
//!
//! | module | holds |
//! |---|---|
//! | [`path`] | paths that have been checked |
//! | [`docroot`] | devices by name |
//! | [`device`] | one device as this process sees it |
//! | [`devices`] | all of them: threads, stall clocks, marks on the scoreboard |
//! | [`device_dir`] | its directory, opened, and what can be done there |
//! | [`mounted`] | whether a device's folder is where its disk should be |
//! | [`open`] | opens that cannot leave the device |
//! | [`on_disk`], [`disk_fd`] | who may wait for a disk, and what only he may use: types |
//! | [`harmless`] | the calls on a device that a loop may make, each with its proof |
//! | [`dirs_in_use`] | when a directory descriptor is opened, shared and let go |
//! | [`liveness`] | signs of life of the disks themselves |
//! | [`stall`] | when a device counts as stalled, pure |
//! | [`errands`] | what a loop has others do on a disk |
//! | [`commit`] | a PUT from temporary to final name; what each failing call does |
//! | [`flush`], [`journal`] | when that is on the disk; whose journal keeps things in order |
//! | [`lane`] | who shares a flush |
//! | [`folders`], [`recent_folder`], [`temporary`] | folders made for a PUT; the one that the next needs too; names before the final one |
//! | [`failed`], [`faults`], [`repeated`] | which call failed, and why; what is counted and told of it |
//! | [`listings`] | when docroots are listed, what was told of them |
//! | [`docroot_watch`] | hints that a docroot has got or lost a device |
//! | [`hot_files`] | files that stay open for a second |
//! | [`operation`], [`work`] | what a disk thread does for a connection, and for nobody |
//! | [`loan`], [`completions`] | who may speak on the connection meanwhile; the way back to the loop |
//! | [`pool`], [`shortage`] | disk threads; what is said when there are none |
//! | [`mod@md5`] | digests at OpenSSL's speed |
//! | [`usage`], [`busy`], [`busy_monitor`] | how full a device is, how busy its disk; who measures that |
//! | [`mounts`] | the mount that a device is on |

pub mod busy;
pub mod busy_monitor;
pub mod commit;
pub mod completions;
pub mod device;
pub mod device_dir;
pub mod devices;
pub mod dirs_in_use;
pub mod disk_fd;
pub mod docroot;
pub mod docroot_watch;
pub mod errands;
pub mod failed;
pub mod faults;
pub mod flush;
pub mod folders;
pub mod harmless;
pub mod hot_files;
pub mod journal;
pub mod lane;
pub mod listings;
pub mod liveness;
pub mod loan;
pub mod md5;
pub mod mounted;
pub mod mounts;
pub mod on_disk;
pub mod open;
pub mod operation;
pub mod path;
pub mod pool;
pub mod recent_folder;
pub mod repeated;
pub mod shortage;
pub mod stall;
pub mod temporary;
pub mod usage;
pub mod work;
