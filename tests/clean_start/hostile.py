# Starts a node as the worst of parents would: hostile.py open|closed FOLDER NODE OPTION...
import ctypes, os, resource, signal, sys
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_SETMASK, set(range(1, 65)) - {32, 33})
closed = sys.argv[1] == "closed"
os.umask(0o77)
where = sys.argv[2] + "/gone"
os.mkdir(where); os.chdir(where); os.rmdir(where)
for number in range(50, 100):
    os.dup2(0, number); os.set_inheritable(number, True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 256))
signal.setitimer(signal.ITIMER_REAL, 0.5)
os.environ.update(TZ=":/no/such/zone", LANG="xx_YY.none", LC_ALL="tlh", LISTEN_FDS="2",
    LISTEN_PID="1", HOME="", TMPDIR="/nowhere")
if closed:
    for number in range(3): os.close(number)
os.execv(sys.argv[3], sys.argv[3:])
