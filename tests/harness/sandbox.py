# Becomes a command to which some system calls are refused, by seccomp(2): ERRNO NUMBER,.. COMMAND..
import ctypes, os, struct, sys
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ERROR, ALLOW = 0x50000, 0x7FFF0000
NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2

def step(code, then, other, value):
    return struct.pack("HBBI", code, then, other, value)

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]

errno, calls = int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")]
steps = [step(LOAD, 0, 0, 0)]
for call in calls:
    steps += [step(EQUAL, 0, 1, call), step(RETURN, 0, 0, ERROR | errno)]
steps.append(step(RETURN, 0, 0, ALLOW))
room = ctypes.create_string_buffer(b"".join(steps))
program = Program(len(steps), ctypes.addressof(room))
libc = ctypes.CDLL(None, use_errno=True)
for call in [(NO_NEW_PRIVS, 1, 0, 0, 0), (SECCOMP, FILTER, ctypes.byref(program), 0, 0)]:
    if libc.prctl(*call) != 0:
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[3], sys.argv[3:])
