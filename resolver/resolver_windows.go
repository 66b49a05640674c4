package resolver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

var methods = []Method{NRPT}

// Detect turns a --resolver word into a method that works on this host, and says why. "auto" gives None where the DNS
// Client service does not run: nothing else on Windows asks different servers for different names.
func Detect(_ context.Context, mode string) (m Method, why string, err error) {
	m, err = Parse(mode)
	if err != nil {
		return "", "", err
	}
	return decideNRPT(m, dnscache(windows.SERVICE_QUERY_STATUS, func(service windows.Handle) error {
		var status windows.SERVICE_STATUS
		if err := windows.QueryServiceStatus(service, &status); err != nil {
			return err
		}
		if status.CurrentState != windows.SERVICE_RUNNING {
			return errors.New("it does not run")
		}
		return nil
	}))
}

// dnscache does something with the DNS Client service.
func dnscache(access uint32, do func(service windows.Handle) error) error {
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		return fmt.Errorf("ask the service manager: %w", err)
	}
	defer windows.CloseServiceHandle(manager)
	service, err := windows.OpenService(manager, windows.StringToUTF16Ptr("Dnscache"), access)
	if err == nil {
		defer windows.CloseServiceHandle(service)
		err = do(service)
	}
	if err != nil {
		return fmt.Errorf("DNS Client service (Dnscache): %w", err)
	}
	return nil
}

// Read finds our rules in the name resolution policy table, and as foreign everybody else's.
func Read(context.Context) ([]Entry, error) { return nrpt{hklm{}}.entries() }

// Apply makes the steps in their order, reads each back, and tells Windows of them; one that fails holds back none of
// the others. A step whose rule has changed since Read fails; without the right to change things the error is
// fs.ErrPermission. Flush afterwards. Call it with an empty plan, too: it sweeps what a kill left.
func Apply(_ context.Context, p Plan) []Result {
	results := nrpt{hklm{}}.apply(p)
	touched := func(store string) bool {
		return slices.ContainsFunc(p.Steps, func(s Step) bool {
			return strings.HasPrefix(s.Old.Key, store) || strings.HasPrefix(s.New.Key, store)
		})
	}
	if touched(localRules) {
		// The service sees changes of the local key by itself, only later; some builds refuse the control.
		err := dnscache(windows.SERVICE_PAUSE_CONTINUE, func(service windows.Handle) error {
			return windows.ControlService(service, windows.SERVICE_CONTROL_PARAMCHANGE, new(windows.SERVICE_STATUS))
		})
		if err != nil {
			slog.Debug("resolver: hint to the DNS Client service", "err", err)
		}
	}
	if touched(policyRules) {
		if err := announcePolicy(); err != nil {
			results = append(results, Result{Err: fmt.Errorf("announce the change of policy: %w", err)})
		}
	}
	if len(p.Steps) > 0 {
		// Whoever asked before the service has seen the change may have been denied, for minutes.
		time.AfterFunc(settling, func() { _ = Flush(context.Background(), NRPT) })
	}
	return results
}

// settling is how long the DNS Client service may take to see a change: about a second, as seen by others.
const settling = 2 * time.Second

// Undocumented exports, or missing in old systems: Find before Call, which panics on what is not there.
var (
	generateGPNotification = windows.NewLazySystemDLL("userenv.dll").NewProc("GenerateGPNotification")
	refreshPolicyEx        = windows.NewLazySystemDLL("userenv.dll").NewProc("RefreshPolicyEx")
	dnsFlushResolverCache  = windows.NewLazySystemDLL("dnsapi.dll").NewProc("DnsFlushResolverCache")
)

// announcePolicy makes the DNS Client service read group policy's rules again: it does so only when told of a change of
// policy. A true refresh of all policy is the second choice, as it asks the domain controller, which may be far.
func announcePolicy() error {
	const machine = 1
	err := generateGPNotification.Find()
	if err == nil { // (machine BOOL, name LPCWSTR, flags DWORD) DWORD
		name := windows.StringToUTF16Ptr("fairlead")
		code, _, _ := generateGPNotification.Call(machine, uintptr(unsafe.Pointer(name)), 0)
		if code == 0 {
			return nil
		}
		err = fmt.Errorf("GenerateGPNotification: %w", windows.Errno(code)) // only the system may, not an administrator
	}
	if missing := refreshPolicyEx.Find(); missing != nil {
		return errors.Join(err, missing)
	}
	const force = 1 // RP_FORCE: though the domain's policy is the same
	if ok, _, failed := refreshPolicyEx.Call(machine, force); ok == 0 {
		return errors.Join(err, fmt.Errorf("RefreshPolicyEx: %w", failed))
	}
	return nil
}

// Verify asks this host's own resolver for our server's own name, as programs do, until the answer holds its address: then the
// entries for w have effect. It asks for some seconds, and returns at last why they have none: something else may override them
// without a trace in what Read finds.
func Verify(ctx context.Context, m Method, w Want) error {
	if m != NRPT || len(w.Domains) == 0 {
		return nil
	}
	name, want := "ns."+w.Domains[0], w.Server.Addr()
	var last error
	for range 4 {
		// A query cannot be called off: who has no time left does not wait for it.
		answer := make(chan error, 1)
		go func() { answer <- ask(name, want) }()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case last = <-answer:
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settling):
		}
		_ = Flush(ctx, m) // it may remember that there was no such name
	}
	return fmt.Errorf("the rules are in place, but Windows does not go by them: %w; hint: Get-DnsClientNrptPolicy -Effective shows those in force; "+
		"another program's rule, group policy or a DNS Client service that has to start anew (restart Windows) may be in the way", last)
}

// ask looks up the IPv4 or IPv6 addresses of a name (DnsQuery_W).
func ask(name string, want netip.Addr) error {
	const asIs = 0x1000 // DNS_QUERY_TREAT_AS_FQDN: no domains to search
	kind := uint16(windows.DNS_TYPE_A)
	if want.Is6() {
		kind = windows.DNS_TYPE_AAAA
	}
	var first *windows.DNSRecord
	if err := windows.DnsQuery(name, kind, asIs, nil, &first, nil); err != nil {
		return fmt.Errorf("asked for %s it says: %w", name, err)
	}
	defer windows.DnsRecordListFree(first, 1) // DnsFreeRecordList
	var got []netip.Addr
	for r := first; r != nil; r = r.Next {
		switch {
		case r.Type != kind:
		case want.Is6():
			got = append(got, netip.AddrFrom16([16]byte(r.Data[:16])))
		default:
			got = append(got, netip.AddrFrom4([4]byte(r.Data[:4])))
		}
	}
	if !slices.Contains(got, want) {
		return fmt.Errorf("asked for %s it says %v, not %v", name, got, want)
	}
	return nil
}

// Flush makes Windows forget answers that it has cached, negative ones too. It cannot tell whether that happened: the
// function gives back nothing that means anything.
func Flush(_ context.Context, m Method) error {
	if m != NRPT {
		return nil
	}
	if err := dnsFlushResolverCache.Find(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	dnsFlushResolverCache.Call()
	return nil
}

// Watch calls changed when something happened after which Read may find less than before, such as a policy applied
// again; and once when it has begun to look. It returns nil when ctx ends. Its hints can be lost; read on a timer, too.
func Watch(ctx context.Context, m Method, changed func()) error {
	if m != NRPT {
		<-ctx.Done()
		return nil
	}
	done, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return fmt.Errorf("watch rules: %w", err)
	}
	defer windows.CloseHandle(done)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		windows.SetEvent(done)
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	for ctx.Err() == nil {
		if err := waitForChange(done, changed); err != nil {
			return fmt.Errorf("watch rules: %w", err)
		}
	}
	return nil
}

// waitForChange calls changed when it has begun to look, and returns when a key of the table or done has changed.
func waitForChange(done windows.Handle, changed func()) error {
	const what = windows.REG_NOTIFY_CHANGE_NAME | windows.REG_NOTIFY_CHANGE_LAST_SET |
		windows.REG_NOTIFY_THREAD_AGNOSTIC // else it ends with the thread, which is not ours to keep
	events := []windows.Handle{done}
	for _, store := range []string{localRules, policyRules} {
		event, err := windows.CreateEvent(nil, 1, 0, nil)
		if err != nil {
			return err
		}
		defer windows.CloseHandle(event)
		key, err := openNearest(store)
		if err != nil {
			return err
		}
		defer key.Close()
		if err := windows.RegNotifyChangeKeyValue(windows.Handle(key), true, what, event, true); err != nil {
			return fmt.Errorf("RegNotifyChangeKeyValue: %w", err)
		}
		events = append(events, event)
	}
	changed()
	_, err := windows.WaitForMultipleObjects(events, false, windows.INFINITE)
	return err
}

// openNearest opens a key for notifications or, where it is not there, the nearest one above it.
func openNearest(key string) (registry.Key, error) {
	for {
		k, err := openKey(key, registry.NOTIFY)
		if !errors.Is(err, fs.ErrNotExist) {
			return k, err
		}
		key, _ = splitKey(key)
	}
}

// hklm is the registry of this machine, below HKEY_LOCAL_MACHINE.
type hklm struct{}

// openKey opens `HKLM\...`.
func openKey(key string, access uint32) (registry.Key, error) {
	hive, path, _ := strings.Cut(key, `\`)
	if !strings.EqualFold(hive, "HKLM") {
		return 0, fmt.Errorf("open key %q: not below HKLM", key)
	}
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, access)
	return k, missing(err)
}

// missing makes of a key that was deleted while it was open one that is not there.
func missing(err error) error {
	if errors.Is(err, windows.ERROR_KEY_DELETED) {
		return windows.ERROR_FILE_NOT_FOUND
	}
	return err
}

func (hklm) subkeys(key string) ([]string, error) {
	k, err := openKey(key, registry.ENUMERATE_SUB_KEYS)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	names, err := k.ReadSubKeyNames(0)
	return names, missing(err)
}

func (hklm) values(key string) (rule, error) {
	k, err := openKey(key, registry.QUERY_VALUE)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	names, err := k.ReadValueNames(0)
	if err != nil {
		return nil, missing(err)
	}
	r := rule{}
	for _, name := range names {
		v, err := readValue(k, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("value %q: %w", name, err)
		}
		r[name] = v
	}
	return r, nil
}

func readValue(k registry.Key, name string) (regValue, error) {
	buf := make([]byte, 512)
	for {
		n, typ, err := k.GetValue(name, buf)
		switch {
		case err == nil:
			return regValue{typ, string(buf[:n])}, nil
		case errors.Is(err, windows.ERROR_MORE_DATA) && n > len(buf):
			buf = make([]byte, n)
		default:
			return regValue{}, missing(err)
		}
	}
}

// The registry package can make no volatile key, cannot say a class, and takes no raw bytes.
var (
	advapi32        = windows.NewLazySystemDLL("advapi32.dll")
	regCreateKeyExW = advapi32.NewProc("RegCreateKeyExW")
	regSetValueExW  = advapi32.NewProc("RegSetValueExW")
)

// class marks a key as made by us from its first moment on. No program looks at the class of a key.
const class = "fairlead"

// create does nothing when the key is there. Windows would make missing parents, too; by a name relative to the parent it cannot.
func (hklm) create(key string, volatile bool) error {
	parent, name := splitKey(key)
	above, err := openKey(parent, registry.CREATE_SUB_KEY)
	if err != nil {
		return err
	}
	defer above.Close()
	var options uintptr
	if volatile {
		options = 1 // REG_OPTION_VOLATILE
	}
	var k registry.Key
	code, _, _ := regCreateKeyExW.Call(uintptr(above), uintptr(unsafe.Pointer(windows.StringToUTF16Ptr(name))), 0,
		uintptr(unsafe.Pointer(windows.StringToUTF16Ptr(class))), options, registry.SET_VALUE, 0, uintptr(unsafe.Pointer(&k)), 0)
	if code != 0 {
		return missing(windows.Errno(code))
	}
	return k.Close()
}

func (hklm) made(key string) bool {
	k, err := openKey(key, registry.QUERY_VALUE)
	if err != nil {
		return false
	}
	defer k.Close()
	buf := make([]uint16, 256)
	n := uint32(len(buf))
	err = windows.RegQueryInfoKey(windows.Handle(k), &buf[0], &n, nil, nil, nil, nil, nil, nil, nil, nil, nil)
	return err == nil && windows.UTF16ToString(buf) == class
}

func (hklm) set(key, name string, v regValue) error {
	k, err := openKey(key, registry.SET_VALUE)
	if err != nil {
		return err
	}
	defer k.Close()
	pname, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return err
	}
	data := []byte(v.data)
	code, _, _ := regSetValueExW.Call(uintptr(k), uintptr(unsafe.Pointer(pname)), 0, uintptr(v.typ),
		uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)))
	if code != 0 {
		return missing(windows.Errno(code))
	}
	return nil
}

func (hklm) remove(key string) error {
	parent, name := splitKey(key)
	above, err := openKey(parent, registry.ENUMERATE_SUB_KEYS)
	if err != nil {
		return err
	}
	defer above.Close()
	return missing(registry.DeleteKey(above, name))
}
