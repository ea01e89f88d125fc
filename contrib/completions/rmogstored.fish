complete -c rmogstored -s c -l config -d 'Configuration file; several need --multi' -r -F
complete -c rmogstored -l httplisten -d 'Where HTTP is spoken: IP:PORT, :PORT, PORT or [IPv6]:PORT [default: 0.0.0.0:7500]' -r
complete -c rmogstored -l mgmtlisten -d 'Where the sidechannel is spoken [default: 0.0.0.0:7501]' -r
complete -c rmogstored -l docroot -d 'Folder that holds dev1, dev2 ... [default: /var/mogdata]' -r
complete -c rmogstored -l maxconns -d 'Connections that one worker holds at most [default: 10000]' -r
complete -c rmogstored -l pidfile -d 'Where the master\'s process id is written' -r
complete -c rmogstored -l server -d '`none`: sidechannel only' -r
complete -c rmogstored -l workers -d 'How many workers: one per device, one per CPU, or a number [default: device]' -r
complete -c rmogstored -s W -l worker-processes -d 'The compatible spelling of --workers=N' -r
complete -c rmogstored -l header-timeout -d 'From a request\'s first byte to its whole head [default: 60]' -r
complete -c rmogstored -l body-timeout -d 'Between two reads of a PUT body, or two writes of an answer [default: 60]' -r
complete -c rmogstored -l idle-timeout -d 'Between requests; 0: never [default: 0]' -r
complete -c rmogstored -l stall-timeout -d 'Age of a disk operation from which its device counts as stalled [default: 5]' -r
complete -c rmogstored -l drain-timeout -d 'How long a graceful quit waits for requests in progress; 0: no bound [default: 3600, ample for the largest file on a slow link, while a dead disk cannot hold up a quit for good]' -r
complete -c rmogstored -l max-queue -d 'Disk operations that may wait for one device before 503 is answered [default: 1024]' -r
complete -c rmogstored -l aio-threads -d 'Disk threads per device, 1 to 100 [default: 10]' -r
complete -c rmogstored -l user -d 'Whom workers run as; needs a master run by root, which binds and opens and stays root' -r
complete -c rmogstored -l group -d 'The main group of that user\'s workers [default: the user\'s own]' -r
complete -c rmogstored -l upgrade-timeout -d 'How long a successor (SIGUSR2) may take to be ready before it is given up [default: 60]' -r
complete -c rmogstored -l status-fd -d 'Open descriptor that gets a JSON line for each event' -r
complete -c rmogstored -l status-socket -d 'Unix socket that gives the node\'s status to whoever connects' -r
complete -c rmogstored -l quickstart -d 'Try it out: make DIR (or a new temporary folder) with dev1 and dev2, serve it on 127.0.0.1:7500 and 7501, and print curl lines to paste' -r -F
complete -c rmogstored -s d -l daemonize -d 'Detach from the terminal; returns once the node serves'
complete -c rmogstored -s s -l skipconfig -d 'Accepted for compatibility, no effect'
complete -c rmogstored -l multi -d 'Each --config describes a docroot of its own'
complete -c rmogstored -l check-config -d 'Check everything, print the effective settings as a configuration file, and exit'
complete -c rmogstored -s V -l version -d 'Print the version'
complete -c rmogstored -s ? -l help -d 'Print this help'
