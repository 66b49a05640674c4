package installer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/kardianos/service"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

const (
	managerName = "Windows service"
	serviceKey  = `SYSTEM\CurrentControlSet\Services\` + serviceName
	place       = `HKLM\` + serviceKey
	recordValue = "FairleadInstall" // in the service's Parameters, which go when it is deleted
)

var (
	programFiles = knownFolder(windows.FOLDERID_ProgramFiles)
	programPlace = filepath.Join(programFiles, "Fairlead", "fairlead.exe")
)

func knownFolder(id *windows.KNOWNFOLDERID) string {
	p, err := windows.KnownFolderPath(id, 0)
	if err != nil {
		return ""
	}
	return p
}

func privileged() error {
	if !windows.GetCurrentProcessToken().IsElevated() {
		return notPermitted("changing this host's services needs an elevated prompt (Run as Administrator)")
	}
	return nil
}

// onlyRootWrites tells whether path lies where Windows lets only administrators write.
func onlyRootWrites(path string) bool {
	for _, dir := range []string{programFiles, knownFolder(windows.FOLDERID_Windows)} {
		if dir != "" && strings.HasPrefix(strings.ToLower(path), strings.ToLower(dir)+`\`) {
			return true
		}
	}
	return false
}

// signed tells whether Windows trusts who has signed a program or DLL, and nobody has changed it since.
func signed(path string) error {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	about := windows.WinTrustFileInfo{Size: uint32(unsafe.Sizeof(windows.WinTrustFileInfo{})), FilePath: name}
	data := windows.WinTrustData{
		Size: uint32(unsafe.Sizeof(windows.WinTrustData{})), UIChoice: windows.WTD_UI_NONE,
		RevocationChecks: windows.WTD_REVOKE_NONE, // this host may have no way to who would know
		UnionChoice:      windows.WTD_CHOICE_FILE, FileOrCatalogOrBlobOrSgnrOrCert: unsafe.Pointer(&about),
		StateAction: windows.WTD_STATEACTION_VERIFY,
	}
	err = windows.WinVerifyTrustEx(windows.InvalidHWND, &windows.WINTRUST_ACTION_GENERIC_VERIFY_V2, &data)
	data.StateAction = windows.WTD_STATEACTION_CLOSE
	_ = windows.WinVerifyTrustEx(windows.InvalidHWND, &windows.WINTRUST_ACTION_GENERIC_VERIFY_V2, &data)
	if err != nil {
		return fmt.Errorf("its signature is not trusted by Windows: %w", err)
	}
	return nil
}

// lingers tells whether remove has done its part, and the rest comes when other programs let go.
func lingers(err error) bool { return errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) }

// removeProgram removes a copy, and its folder if that is empty now. Windows keeps a program that runs until it starts again.
func removeProgram(path string) (later string, err error) {
	if self, err := os.Executable(); err == nil && strings.EqualFold(self, path) {
		from, err := windows.UTF16PtrFromString(path)
		if err != nil {
			return "", err
		}
		if err := windows.MoveFileEx(from, nil, windows.MOVEFILE_DELAY_UNTIL_REBOOT); err != nil {
			return "", err
		}
		return "it runs right now; it goes when Windows starts again", nil
	}
	if err := os.Remove(path); err != nil {
		return "", err
	}
	_ = os.Remove(filepath.Dir(path))
	return "", nil
}

// open opens our service; nil where there is none.
func open() (*mgr.Mgr, *mgr.Service, error) {
	// Asking needs fewer rights than mgr.Connect wants.
	h, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		return nil, nil, fmt.Errorf("OpenSCManager: %w", err)
	}
	m := &mgr.Mgr{Handle: h}
	access := uint32(windows.SERVICE_QUERY_CONFIG | windows.SERVICE_QUERY_STATUS)
	if privileged() == nil {
		access = windows.SERVICE_ALL_ACCESS
	}
	s, err := windows.OpenService(m.Handle, windows.StringToUTF16Ptr(serviceName), access)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return m, nil, nil
	}
	if err != nil {
		m.Disconnect()
		return nil, nil, fmt.Errorf("OpenService: %w", err)
	}
	return m, &mgr.Service{Name: serviceName, Handle: s}, nil
}

// with calls do with our service; none is ErrNotInstalled.
func with(do func(*mgr.Service) error) error {
	m, s, err := open()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	if s == nil {
		return ErrNotInstalled
	}
	defer s.Close()
	return explain(do(s))
}

// explain says for people what keeps a service that was deleted; errors.Is still finds the code.
func explain(err error) error {
	if errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) {
		return fmt.Errorf("%w: the service is deleted, but goes only when no program looks at it any more; hint: close Services, Task Manager and Event Viewer, or restart Windows, then try again", err)
	}
	return err
}

// installed is our service; nil where there is none. It is ours while its command line is the one that we gave it.
func installed() (d *definition, err error) {
	err = with(func(s *mgr.Service) error {
		c, err := s.Config()
		if err != nil {
			return err
		}
		d = nil
		if k, err := registry.OpenKey(registry.LOCAL_MACHINE, serviceKey+`\Parameters`, registry.QUERY_VALUE); err == nil {
			defer k.Close()
			if line, _, err := k.GetStringValue(recordValue); err == nil {
				d, _ = readRecord(line, c.BinaryPathName)
			}
		}
		if d == nil {
			return fmt.Errorf("%s: %w", place, ErrForeign)
		}
		return nil
	})
	if errors.Is(err, ErrNotInstalled) {
		return nil, nil
	}
	return d, err
}

func running() (up bool, err error) {
	now, err := state()
	if errors.Is(err, ErrNotInstalled) {
		return false, nil
	}
	return err == nil && now != svc.Stopped, err
}

func state() (now svc.State, err error) {
	err = with(func(s *mgr.Service) error {
		st, err := s.Query()
		now = st.State
		return err
	})
	return now, err
}

func atBoot() (auto bool, err error) {
	err = with(func(s *mgr.Service) error {
		c, err := s.Config()
		if err != nil {
			return err
		}
		auto = c.StartType == mgr.StartAutomatic
		// A change of nothing: one that was deleted, and only waits for who holds it, cannot be changed any more.
		const same = windows.SERVICE_NO_CHANGE
		return windows.ChangeServiceConfig(s.Handle, same, same, same, nil, nil, nil, nil, nil, nil, nil)
	})
	return auto, err
}

// recovery restarts a service that died or ended with an exit code; a day without makes it forget.
var recovery = []mgr.RecoveryAction{
	{Type: mgr.ServiceRestart, Delay: 5 * time.Second},
	{Type: mgr.ServiceRestart, Delay: 30 * time.Second},
	{Type: mgr.ServiceRestart, Delay: time.Minute},
}

const recoveryReset = 24 * 60 * 60 // seconds

func write(d definition, again bool) error {
	about := service.Config{
		Name: serviceName, DisplayName: "Fairlead", Description: "Names and routes to containers",
		Executable: d.Program, Arguments: d.Args, Option: service.KeyValue{"DelayedAutoStart": true},
	}
	if !again {
		s, err := service.New(nil, &about)
		if err != nil {
			return err
		}
		if err := s.Install(); err != nil { // with an event source
			return fmt.Errorf("installing the service: %w", explain(err))
		}
	}
	return with(func(s *mgr.Service) error {
		c, err := s.Config()
		if err != nil {
			return err
		}
		c.DisplayName, c.Description, c.StartType, c.DelayedAutoStart = about.DisplayName, about.Description, mgr.StartAutomatic, true
		c.BinaryPathName = windows.ComposeCommandLine(append([]string{d.Program}, d.Args...))
		if err := s.UpdateConfig(c); err != nil {
			return fmt.Errorf("configuring the service: %w", err)
		}
		// What kardianos/service cannot say: more than one action, and that an exit code counts as a failure.
		if err := errors.Join(s.SetRecoveryActions(recovery, recoveryReset), s.SetRecoveryActionsOnNonCrashFailures(true)); err != nil {
			return fmt.Errorf("configuring the service's recovery: %w", err)
		}
		if c, err = s.Config(); err != nil { // Windows' own words, for the seal
			return err
		}
		k, _, err := registry.CreateKey(registry.LOCAL_MACHINE, serviceKey+`\Parameters`, registry.SET_VALUE)
		if err != nil {
			return fmt.Errorf("CreateKey: %w", err)
		}
		defer k.Close()
		return k.SetStringValue(recordValue, d.record(c.BinaryPathName))
	})
}

// arm gives this service, where a package has made it, what packages cannot say: recovery actions and a delayed start. What
// somebody has set stays. It begins when the manager knows that the service runs: until then that may be locked.
func arm() {
	if !until(time.Minute, func() bool { now, err := state(); return err != nil || now == svc.Running }) {
		return
	}
	if k, err := registry.OpenKey(registry.LOCAL_MACHINE, serviceKey+`\Parameters`, registry.QUERY_VALUE); err == nil {
		defer k.Close()
		if _, _, err := k.GetStringValue(recordValue); err == nil {
			return // install made it, and has set them
		}
	}
	err := with(func(s *mgr.Service) error {
		if actions, err := s.RecoveryActions(); err != nil || len(actions) > 0 {
			return err
		}
		delayed := windows.SERVICE_DELAYED_AUTO_START_INFO{IsDelayedAutoStartUp: 1}
		return errors.Join(s.SetRecoveryActions(recovery, recoveryReset), s.SetRecoveryActionsOnNonCrashFailures(true),
			windows.ChangeServiceConfig2(s.Handle, windows.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, (*byte)(unsafe.Pointer(&delayed))))
	})
	if err != nil {
		logged().Warn("the service is not restarted when it fails", "err", err)
	}
}

func remove() error {
	if err := stop(); err != nil {
		return err
	}
	if err := with(func(s *mgr.Service) error { return s.Delete() }); err != nil {
		return fmt.Errorf("deleting the service: %w", err)
	}
	if err := eventlog.Remove(serviceName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the event source: %w", err)
	}
	// It goes when the last handle does; to install before that is refused (ERROR_SERVICE_MARKED_FOR_DELETE).
	gone := func() bool { return errors.Is(with(func(*mgr.Service) error { return nil }), ErrNotInstalled) }
	if !until(10*time.Second, gone) {
		return explain(windows.ERROR_SERVICE_MARKED_FOR_DELETE)
	}
	return nil
}

func start() error {
	return with(func(s *mgr.Service) error {
		if err := s.Start(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING) {
			return fmt.Errorf("starting the service: %w", err)
		}
		return reach(s, svc.Running)
	})
}

// stop is not kardianos/service's, which waits forever for a service that does not stop. It returns when the process is gone, too:
// until then its file is busy.
func stop() error {
	return with(func(s *mgr.Service) error {
		if now, err := s.Query(); err == nil && now.ProcessId != 0 {
			if process, err := windows.OpenProcess(windows.SYNCHRONIZE, false, now.ProcessId); err == nil {
				defer func() {
					_, _ = windows.WaitForSingleObject(process, 20_000) // ms
					_ = windows.CloseHandle(process)
				}()
			}
		}
		if _, err := s.Control(svc.Stop); err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
			return fmt.Errorf("stopping the service: %w", err)
		}
		return reach(s, svc.Stopped)
	})
}

// reach waits until the service is where it is to be, or has stopped instead.
func reach(s *mgr.Service, want svc.State) error {
	var now svc.Status
	var err error
	arrived := until(40*time.Second, func() bool {
		now, err = s.Query()
		return err != nil || now.State == want || now.State == svc.Stopped
	})
	switch {
	case err != nil:
		return fmt.Errorf("asking for the service's state: %w", err)
	case now.State == want:
		return nil
	case arrived:
		return fmt.Errorf("it has stopped with exit code %d, %d", now.Win32ExitCode, now.ServiceSpecificExitCode)
	}
	return errors.New("it takes longer than 40 s")
}

// LogCommand is the command that prints the last lines of the service's log.
func LogCommand(lines int, follow bool) ([]string, error) {
	if follow {
		return nil, errors.New("the event log of Windows cannot be followed from here")
	}
	wevtutil := filepath.Join(knownFolder(windows.FOLDERID_System), "wevtutil.exe")
	return []string{wevtutil, "qe", "Application", "/q:*[System[Provider[@Name='" + serviceName + "']]]", "/f:text", "/rd:true", "/c:" + strconv.Itoa(lines)}, nil
}

// Log returns where a running program's log goes: a service has no standard error, but an event log.
func Log() io.Writer {
	if service.Interactive() {
		return os.Stderr
	}
	l, err := eventlog.Open(serviceName)
	if err != nil {
		return io.Discard
	}
	return events{l}
}

// events writes each line of a log as an event, with the numbers of EventCreate.exe's messages.
type events struct{ *eventlog.Log }

func (e events) Write(b []byte) (int, error) {
	level, text := parseEvent(string(b))
	var err error
	switch level {
	case "ERROR":
		err = e.Error(3, text)
	case "WARN":
		err = e.Warning(2, text)
	default:
		err = e.Info(1, text)
	}
	return len(b), err
}
