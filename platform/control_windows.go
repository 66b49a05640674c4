package platform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// ErrBusy: another fairlead is at work.
var ErrBusy = errors.New("another fairlead is at work here")

// Who may use the pipes: the system and administrators; of the second, too, whoever is logged on at this host. (SDDL, MS-DTYP 2.5.1)
const (
	controlRights = "D:P(A;;GA;;;SY)(A;;GA;;;BA)"
	statusRights  = controlRights + "(A;;0x12019b;;;IU)" // to read and write, but not to serve it, as GENERIC_WRITE would allow, too
	statusSuffix  = "-status"
	statusAccess  = windows.FILE_GENERIC_READ | windows.FILE_WRITE_DATA // what a client asks for of these
)

// ListenControl makes the control endpoint, which only the system and administrators may use. The error is ErrBusy when
// another fairlead has it.
func ListenControl(path string) (net.Listener, error) { return listenPipe(path, controlRights) }

// ListenStatus makes the endpoint beside that at path where every user who is logged on may ask, and nobody change anything;
// nil where the OS has none.
func ListenStatus(path string) (net.Listener, error) {
	return listenPipe(path+statusSuffix, statusRights)
}

func listenPipe(path, rights string) (net.Listener, error) {
	l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: rights})
	switch {
	case errors.Is(err, windows.ERROR_ACCESS_DENIED): // the first one of its name can be made once
		if p, ok := pipeHolder(path); ok && p.PID != os.Getpid() && !strings.EqualFold(p.Name, "fairlead") {
			return nil, fmt.Errorf("control endpoint %s: %v has made a pipe of this name; hint: end it, or choose another name with --control", path, p)
		}
		return nil, fmt.Errorf("control endpoint %s: %w", path, ErrBusy)
	case err != nil:
		return nil, fmt.Errorf("making the control endpoint %s: %w", path, err)
	}
	return l, nil
}

// pipeHolder finds the process that serves a pipe.
func pipeHolder(path string) (p Process, ok bool) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return p, false
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ, 0, nil, windows.OPEN_EXISTING, windows.SECURITY_SQOS_PRESENT|windows.SECURITY_ANONYMOUS, 0)
	if err != nil {
		return p, false
	}
	defer windows.CloseHandle(h)
	var pid uint32
	if err := windows.GetNamedPipeServerProcessId(h, &pid); err != nil {
		return p, false
	}
	p.PID = int(pid)
	eachProcess(func(pid int, name string) {
		if pid == p.PID {
			p.Name = name
		}
	})
	return p, true
}

// DialControl connects to a running fairlead's control endpoint: to the one that changes nothing, where this user has no
// rights to the other.
func DialControl(ctx context.Context, path string) (net.Conn, error) {
	c, err := winio.DialPipeContext(ctx, path)
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		if c, err := winio.DialPipeAccess(ctx, path+statusSuffix, statusAccess); err == nil {
			return c, nil
		}
	}
	return c, err
}

// Lock takes the file at path for this process alone. The error is ErrBusy when another one has it.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if err != nil {
		f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// ClearControl has nothing to do: a pipe goes with the process that made it.
func ClearControl(string) error { return nil }

// stateRights are of a folder below %ProgramData%, where everybody may make folders and files: the system and administrators
// change what is in it, others read. (SDDL, MS-DTYP 2.5.1)
const stateRights = "O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FRFX;;;BU)"

// MakeStateDir makes the folder for what fairlead remembers of its own changes, where only administrators may change it. In
// the default place it takes over one that an administrator made; one that somebody else made is an error, as settings
// and memories in it would be theirs.
func MakeStateDir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	rights, err := windows.SecurityDescriptorFromString(stateRights)
	if err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	sa := windows.SecurityAttributes{SecurityDescriptor: rights}
	sa.Length = uint32(unsafe.Sizeof(sa))
	err = windows.CreateDirectory(name, &sa)
	if !errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		if err != nil {
			return &os.PathError{Op: "mkdir", Path: path, Err: err}
		}
		return nil
	}
	if !strings.EqualFold(path, DefaultStateDir) {
		return nil // whoever chose it knows who may write there
	}
	if owner, ok := trustedOwner(path); !ok {
		return fmt.Errorf("%s belongs to %s, who is no administrator, and so could tell fairlead what to do; hint: look at it, then remove it", path, owner)
	}
	dacl, _, err := rights.DACL()
	if err != nil {
		return err
	}
	if err := windows.SetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, dacl, nil); err != nil {
		return &os.PathError{Op: "SetNamedSecurityInfo", Path: path, Err: err}
	}
	return nil
}

// trustedOwner tells whether a file belongs to the system, to the administrators or to this process's user, who is one of them.
func trustedOwner(path string) (owner string, ok bool) {
	sd, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return err.Error(), false
	}
	sid, _, err := sd.Owner()
	if err != nil {
		return err.Error(), false
	}
	if sid.IsWellKnown(windows.WinLocalSystemSid) || sid.IsWellKnown(windows.WinBuiltinAdministratorsSid) {
		return "", true
	}
	if user, err := windows.GetCurrentProcessToken().GetTokenUser(); err == nil && user.User.Sid.Equals(sid) {
		return "", true
	}
	account, domain, _, err := sid.LookupAccount("")
	if err != nil {
		return sid.String(), false
	}
	return domain + `\` + account, false
}
