//! The process title: what `ps` shows. The kernel shows the memory in which it once put the
//! arguments; whatever is written there is the title, proc_pid_cmdline(5).

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, fs, ptr, slice};

/// Room for a title, in bytes: the environment behind the arguments may be large.
const LONGEST: usize = 256;

static TITLE: Mutex<Title> = Mutex::new(Title { area: None, text: String::new() });

struct Title {
    /// Address and length of the memory that may be written.
    area: Option<(usize, usize)>,
    text: String,
}

/// Finds the memory of the arguments, and moves the environment out of the way. To be called
/// once, while there is one thread. Without /proc there are no titles.
pub fn prepare() {
    let Some((start, len)) = argument_area() else { return };
    copy_environment();
    lock().area = Some((start, len));
}

/// Shows this title from now on, also in processes forked later.
pub fn set(text: &str) {
    let mut title = lock();
    text.clone_into(&mut title.text);
    title.show();
}

/// Adds to what is shown.
pub fn add(text: &str) {
    let mut title = lock();
    title.text.push_str(text);
    title.show();
}

fn lock() -> MutexGuard<'static, Title> {
    TITLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Title {
    #[expect(unsafe_code, reason = "the kernel reads titles from the arguments' memory")]
    fn show(&self) {
        let Some((start, len)) = self.area else { return };
        // SAFETY: the kernel put arguments and environment there, page after page of private
        // writable memory that nobody unmaps. The environment in use is a copy, and the standard
        // library reads the arguments as strings that end at a zero byte: the last one stays.
        // The lock keeps other writers out.
        let area =
            unsafe { slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(start), len) };
        let text = self.text.as_bytes();
        let text = &text[..text.len().min(len - 1)];
        area.fill(0);
        area[..text.len()].copy_from_slice(text);
    }
}

/// Fields 48 to 51 of proc_pid_stat(5): where arguments and environment begin and end.
fn argument_area() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name, field 2, may hold blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<usize>().ok();
    let (start, arg_end, env_start, env_end) = (field(48)?, field(49)?, field(50)?, field(51)?);
    if start == 0 || arg_end <= start {
        return None;
    }
    // All of the arguments, which the title replaces, and of the environment what it needs.
    let room = if arg_end == env_start { env_end.saturating_sub(start) } else { 0 };
    Some((start, (arg_end - start).max(room.min(LONGEST))))
}

/// Replaces the environment by a copy elsewhere, which is never given back.
#[expect(unsafe_code, reason = "the C library's environment has no other interface")]
fn copy_environment() {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    let mut copies: Vec<*const c_char> = Vec::new();
    for (name, value) in env::vars_os() {
        let line = [name.into_vec(), value.into_vec()].join(&b'=');
        // No zero byte can be inside: these were C strings.
        copies.extend(CString::new(line).ok().map(|line| line.into_raw().cast_const()));
    }
    copies.push(ptr::null());
    // SAFETY: an array of C strings with a null pointer at its end, leaked and so valid for
    // ever. There is one thread, so nobody reads the environment meanwhile.
    unsafe { environ = copies.leak().as_ptr() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_begins_with_the_arguments() {
        let (_, len) = argument_area().unwrap();
        let shown = fs::read("/proc/self/cmdline").unwrap();
        assert!(len >= shown.len(), "{len}");
    }

    #[test]
    fn without_an_area_nothing_is_written() {
        let title = Title { area: None, text: "x".to_owned() };
        title.show();
    }
}
