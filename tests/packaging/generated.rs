//! What is made from the option table is shipped as it would be made now. After a change to the
//! table: `UPDATE=1 cargo test --test tests packaging::generated`.

// The table belongs to the program; a library for the tests' sake would make it public.
#[path = "../../src/cli.rs"]
mod cli;

use std::fmt::Write as _;
use std::fs;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use super::{contrib, output, scratch, shipped, tool};

/// The whole option table.
pub fn table() -> Command {
    let mut table = cli::Cli::command();
    table.build();
    table
}

/// The shipped file must be this; with `UPDATE` in the environment it is made so.
fn is_current(name: &str, made: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(contrib(name), made).unwrap();
    }
    let kept = fs::read_to_string(contrib(name)).unwrap_or_default();
    assert!(kept == made, "contrib/{name} is out of date: run the test with UPDATE=1");
}

/// The page: its head and options from the table, the rest by hand.
fn page() -> String {
    let table = table();
    let man = clap_mangen::Man::new(table.clone())
        .title("rmogstored")
        .section("8")
        .manual("System Administration");
    let mut bytes = Vec::new();
    man.render_title(&mut bytes).unwrap();
    man.render_name_section(&mut bytes).unwrap();
    man.render_synopsis_section(&mut bytes).unwrap();
    man.render_description_section(&mut bytes).unwrap();
    man.render_options_section(&mut bytes).unwrap();
    let mut text = String::from_utf8(bytes).unwrap();
    text.push_str(&commands(&table));
    text.push_str(&shipped("man/rmogstored.8.in"));
    text
}

/// The subcommands, which have no pages of their own.
fn commands(table: &Command) -> String {
    let mut text = String::new();
    for command in table.get_subcommands() {
        if text.is_empty() {
            text.push_str(".SH COMMANDS\n");
        }
        let usage = command.clone().render_usage().to_string();
        let about = command.get_long_about().or(command.get_about());
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
        writeln!(text, ".TP\n\\fB{}\\fR", escaped(usage)).unwrap();
        let about = about.map(ToString::to_string).unwrap_or_default();
        writeln!(text, "{}", escaped(&about.replace("\n\n", "\n.IP\n"))).unwrap();
        text.push_str(&arguments(command));
    }
    text
}

fn arguments(command: &Command) -> String {
    let mut text = String::from(".RS\n");
    let own =
        command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()));
    for argument in own.filter(|arg| !arg.is_global_set()) {
        let help = argument.get_long_help().or(argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let name = escaped(&argument.to_string());
        writeln!(text, ".TP\n\\fB{name}\\fR\n{}", escaped(&help)).unwrap();
    }
    text.push_str(".RE\n");
    text
}

/// roff takes a dash for a hyphen.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

fn completion(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut table(), "rmogstored", &mut bytes);
    // fish takes a question mark for a wildcard, or not for an option.
    String::from_utf8(bytes)
        .unwrap()
        .replace(" ?/help", " help")
        .replace(" -s ? -l help", " -l help")
}

#[test]
fn man_page_is_current() {
    is_current("man/rmogstored.8", &page());
}

#[test]
fn completions_are_current() {
    is_current("completions/rmogstored.bash", &completion(Shell::Bash));
    is_current("completions/_rmogstored", &completion(Shell::Zsh));
    is_current("completions/rmogstored.fish", &completion(Shell::Fish));
}

#[test]
fn bash_completes_options() {
    let Some(bash) = tool("bash") else { return };
    let script = "set -u; source \"$0\"; COMP_WORDS=(rmogstored --drain); COMP_CWORD=1; \
        _rmogstored rmogstored --drain rmogstored; echo \"${COMPREPLY[@]}\"; complete -p rmogstored";
    let file = contrib("completions/rmogstored.bash");
    let text = output(bash, ["-c".as_ref(), script.as_ref(), file.as_os_str()]);
    assert!(text.starts_with("--drain-timeout\n"), "{text}");
}

#[test]
fn zsh_completes_options() {
    let Some(mut zsh) = tool("zsh") else { return };
    let folder = scratch();
    zsh.env("ZDOTDIR", folder.path()).env("SHIPPED", contrib("completions"));
    let script = "fpath=($SHIPPED $fpath); autoload -U compinit && compinit -u -D; \
        print $_comps[rmogstored]; _arguments() { print -l -- $@ }; \
        autoload +X _rmogstored && words=(rmogstored) && _rmogstored";
    let text = output(zsh, ["-f", "-c", script]);
    assert!(text.starts_with("_rmogstored\n"), "{text}");
    assert!(text.contains("--drain-timeout="), "{text}");
}

#[test]
fn fish_completes_options() {
    let Some(mut fish) = tool("fish") else { return };
    let folder = scratch();
    fish.env("HOME", folder.path()).env("SHIPPED", contrib("completions/rmogstored.fish"));
    let script =
        "source $SHIPPED; complete -C 'rmogstored --drain'; complete -C 'rmogstored upg' 2>&1";
    let text = output(fish, ["--no-config", "-c", script]);
    let lines: Vec<_> = text.lines().map(|line| line.split('\t').next().unwrap_or(line)).collect();
    assert_eq!(lines, ["--drain-timeout", "upgrade"], "{text}");
}
