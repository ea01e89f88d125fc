# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_rmogstored_global_optspecs
    string join \n d/daemonize c/config= httplisten= mgmtlisten= docroot= require-mount maxconns= pidfile= server= s/skipconfig workers= W/worker-processes= multi header-timeout= body-timeout= idle-timeout= stall-timeout= drain-timeout= max-queue= fsync= aio-threads= user= group= upgrade-timeout= status-fd= status-socket= statuslisten= loglevel= logformat= logfile= accesslog= accesslog-format= accesslog-only= slow-log= check-config quickstart= V/version help
end

function __fish_rmogstored_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_rmogstored_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_rmogstored_using_subcommand
    set -l cmd (__fish_rmogstored_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c rmogstored -n "__fish_rmogstored_needs_command" -s c -l config -d 'Configuration file; several need --multi' -r -F
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l httplisten -d 'Where HTTP is spoken: IP:PORT, :PORT, PORT or [IPv6]:PORT [default: 0.0.0.0:7500]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l mgmtlisten -d 'Where the sidechannel is spoken [default: 0.0.0.0:7501]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l docroot -d 'Folder that holds dev1, dev2 ... [default: /var/mogdata]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l maxconns -d 'Connections that one worker holds at most [default: 10000]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l pidfile -d 'Where the master\'s process id is written' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l server -d '`none`: sidechannel only' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l workers -d 'How many workers: one per device, one per CPU, or a number [default: device]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -s W -l worker-processes -d 'The compatible spelling of --workers=N' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l header-timeout -d 'From a request\'s first byte to its whole head [default: 60]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l body-timeout -d 'Between two reads of a PUT body, or two writes of an answer [default: 60]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l idle-timeout -d 'Between requests; 0: never [default: 0]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l stall-timeout -d 'Age of a disk operation from which its device counts as stalled [default: 5]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l drain-timeout -d 'How long a graceful quit waits for requests in progress; 0: no bound [default: 3600, ample for the largest file on a slow link, while a dead disk cannot hold up a quit for good]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l max-queue -d 'Disk operations that may wait for one device before 503 is answered [default: 1024]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l fsync -d 'What is on the disk before a PUT or DELETE is answered: off, file or batch [default: off]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l aio-threads -d 'Disk threads per device, 1 to 100 [default: 10]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l user -d 'Whom workers run as; needs a master run by root, which binds and opens and stays root' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l group -d 'The main group of that user\'s workers [default: the user\'s own]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l upgrade-timeout -d 'How long a successor (SIGUSR2) may take to be ready before it is given up [default: 60]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l status-fd -d 'Open descriptor that gets a JSON line for each event' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l status-socket -d 'Unix socket that gives the node\'s status to whoever connects' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l statuslisten -d 'Where metrics and a status page are served; off unless given' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l loglevel -d 'The least of what the node says: error, warn, info or debug [default: info]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l logformat -d 'How it says it, on standard error and in a file [default: text]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l logfile -d 'A file for it, instead of standard error and syslog' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l accesslog -d 'A line for each HTTP request: into a file, to syslog, or off [default: off]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l accesslog-format -d 'How such a line is written [default: combined]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l accesslog-only -d 'Lines of these requests alone: writes, errors, slow; several with commas' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l slow-log -d 'Log operations that take longer, with what the time went into; 0: none [default: 0]' -r
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l quickstart -d 'Try it out: make DIR (or a new temporary folder) with dev1 and dev2, serve it on 127.0.0.1:7500 and 7501, and print curl lines to paste' -r -F
complete -c rmogstored -n "__fish_rmogstored_needs_command" -s d -l daemonize -d 'Detach from the terminal; returns once the node serves'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l require-mount -d 'Answer 503 for each devN that is no mount: see require_mount in mogstored.conf(5)'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -s s -l skipconfig -d 'Accepted for compatibility, no effect'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l multi -d 'Each --config describes a docroot of its own'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l check-config -d 'Check everything, print the effective settings as a configuration file, and exit'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -s V -l version -d 'Print the version'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -l help -d 'Print this help; so does -h'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -f -a "status" -d 'Show a running node: workers, devices, requests and bytes per second'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -f -a "upgrade" -d 'Put the executable that is installed now in a running node\'s place, without closing a port'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -f -a "scrub" -d 'Read every file of devices from the disk, and tell of those that are damaged or misplaced'
complete -c rmogstored -n "__fish_rmogstored_needs_command" -f -a "device" -d 'Tell a running node what it cannot know of a device'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand status" -l json -d 'Print the node\'s JSON document instead of a table'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand status" -l follow -d 'Show it again every second, until Ctrl-C'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand status" -l help -d 'Print this help; so does -h'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand upgrade" -l help -d 'Print this help; so does -h'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand scrub" -l rate -d 'Megabytes (10^6 bytes) per second that are read of each device at most [default: no bound]' -r
complete -c rmogstored -n "__fish_rmogstored_using_subcommand scrub" -l since-state -d 'Keep the position in FILE, and go on there when the last pass was interrupted' -r -F
complete -c rmogstored -n "__fish_rmogstored_using_subcommand scrub" -l status-socket -d 'The --status-socket of the node that serves the devices: one that it calls stalled or unmounted is left alone' -r -F
complete -c rmogstored -n "__fish_rmogstored_using_subcommand scrub" -l patience -d 'Seconds that a device may be stalled, once it is being scrubbed, before it is given up [default: 60]' -r
complete -c rmogstored -n "__fish_rmogstored_using_subcommand scrub" -l device-list -d 'Print `FID DEVID` of each bad copy instead of JSON lines'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand scrub" -l help -d 'Print this help; so does -h'
complete -c rmogstored -n "__fish_rmogstored_using_subcommand device" -l forget -d 'Take the folder that is there for a device which was a mount before: it answers 503 until it is mounted again, its folder is removed and made anew, or this is said' -r
complete -c rmogstored -n "__fish_rmogstored_using_subcommand device" -l clear -d 'Its disk, which had many errors within a minute, is mended: it is failing no more' -r
complete -c rmogstored -n "__fish_rmogstored_using_subcommand device" -l help -d 'Print this help; so does -h'
