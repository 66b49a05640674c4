package platform

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

// Who may use a pipe, as Windows tells it of the pipe itself.
func TestControlRights(t *testing.T) {
	path := endpoint(t)
	for _, c := range []struct {
		listen    func(string) (net.Listener, error)
		path      string
		everybody bool
	}{{ListenControl, path, false}, {ListenStatus, path + statusSuffix, true}} {
		l, err := c.listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
			}
		}()
		name, err := windows.UTF16PtrFromString(c.path)
		if err != nil {
			t.Fatal(err)
		}
		var h windows.Handle
		for deadline := time.Now().Add(20 * time.Second); ; {
			h, err = windows.CreateFile(name, statusAccess|windows.READ_CONTROL, 0, nil, windows.OPEN_EXISTING, 0, 0)
			if !errors.Is(err, windows.ERROR_PIPE_BUSY) || time.Now().After(deadline) { // until it accepts
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		sd, err := windows.GetSecurityInfo(h, windows.SE_KERNEL_OBJECT, windows.DACL_SECURITY_INFORMATION)
		windows.CloseHandle(h)
		if err != nil {
			t.Fatal(err)
		}
		said := sd.String()
		if !strings.HasPrefix(said, "D:P(A;") || !strings.Contains(said, ";;;SY)") || !strings.Contains(said, ";;;BA)") || strings.Contains(said, ";;;WD)") ||
			strings.Contains(said, ";;;IU)") != c.everybody || strings.Contains(said, "(A;;0x12019b;;;IU)") != c.everybody {
			t.Errorf("%s: %s", c.path, said)
		}
	}
}

func TestMakeStateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "parent", "state")
	for range 2 {
		if err := MakeStateDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "journal.json"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if owner, ok := trustedOwner(dir); !ok {
		t.Errorf("it belongs to %s", owner)
	}
	if !wine() { // which keeps of an access list what a file's mode can hold
		sd, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
		if err != nil {
			t.Fatal(err)
		}
		if got := sd.String(); !strings.HasPrefix(got, "O:BAD:P") || strings.Contains(got, ";;;WD)") || strings.Contains(got, ";;;IU)") {
			t.Errorf("rights %s", got)
		}
	}
}

// wine tells whether this is not Windows, but Wine.
func wine() bool {
	return windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}

func TestNameservers(t *testing.T) {
	for _, a := range Nameservers() {
		if !a.IsValid() || a.IsLoopback() || a.IsUnspecified() || a.Is4In6() {
			t.Errorf("%v", a)
		}
	}
}
