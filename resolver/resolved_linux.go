package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// resolve1 is org.freedesktop.resolve1(5), systemd-resolved's interface on the system bus.
type resolve1 struct {
	conn  *dbus.Conn
	close func()
}

const (
	resolve1Name    = "org.freedesktop.resolve1"
	resolve1Manager = resolve1Name + ".Manager."
	resolve1Link    = resolve1Name + ".Link"
)

// patience bounds a call, and the time that resolved may take to notice what the kernel told it.
const patience = 5 * time.Second

// errNotRunning: nobody owns resolved's name, or there is no system bus at all.
var errNotRunning = errors.New("systemd-resolved does not run")

// dialResolve1 connects to the system bus (DBUS_SYSTEM_BUS_ADDRESS, if set). It does not start resolved. The connection ends by
// itself after a while, so that a bus that hangs cannot hold us.
func dialResolve1(ctx context.Context) (_ *resolve1, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: no system bus: %w", errNotRunning, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	var owned bool
	call := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolve1Name)
	if err := call.Store(&owned); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask the system bus for %s: %w", resolve1Name, err)
	}
	if !owned {
		conn.Close()
		return nil, errNotRunning
	}
	return &resolve1{conn, func() { conn.Close(); cancel() }}, nil
}

// call never starts resolved and never lets polkit ask the user for a password.
func (r *resolve1) call(ctx context.Context, path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	call := r.conn.Object(resolve1Name, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if failedWith(call.Err, accessDenied, needsPassword) {
		call.Err = fmt.Errorf("%w: %w", os.ErrPermission, call.Err)
	}
	if call.Err != nil {
		call.Err = fmt.Errorf("%s: %w", method[strings.LastIndexByte(method, '.')+1:], call.Err)
	}
	return call
}

func (r *resolve1) manager(ctx context.Context, method string, args ...any) *dbus.Call {
	return r.call(ctx, "/org/freedesktop/resolve1", resolve1Manager+method, args...)
}

// failedWith tells whether err is the D-Bus error name, such as "org.freedesktop.resolve1.NoSuchLink".
func failedWith(err error, names ...string) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range names {
		if e.Name == n {
			return true
		}
	}
	return false
}

const (
	noSuchLink    = "org.freedesktop.resolve1.NoSuchLink"
	unknownMethod = "org.freedesktop.DBus.Error.UnknownMethod"
	accessDenied  = "org.freedesktop.DBus.Error.AccessDenied"
	needsPassword = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
)

type (
	serverEx struct { // (iayqs)
		Family  int32
		Address []byte
		Port    uint16 // 0 = 53
		Name    string // for DNS over TLS
	}
	server struct { // (iay)
		Family  int32
		Address []byte
	}
	domain struct { // (sb)
		Name      string // without "~"
		RouteOnly bool
	}
)

// linkState is what resolved knows of a link.
type linkState struct {
	inUse   bool // resolved asks the link's servers: the link is up, has an address and servers
	servers []netip.AddrPort
	domains []domain
	strange []string // settings other than ours: "default-route", "dnssec=yes"
}

// value is the state as Item.Value says it. Of a link that resolved does not use it shows the domains alone, so that Diff sees
// something unfinished, not something in place.
func (s linkState) value() string {
	var words []string
	if s.inUse {
		for _, a := range s.servers {
			words = append(words, a.String())
		}
	}
	for _, d := range s.domains {
		name := strings.ToLower(d.Name)
		if d.RouteOnly {
			name = "~" + name
		}
		words = append(words, name)
	}
	if s.inUse {
		words = append(words, s.strange...)
	}
	return strings.Join(words, " ")
}

// parseValue is the inverse of value for what Render makes.
func parseValue(value string) (netip.AddrPort, []domain, error) {
	first, rest, _ := strings.Cut(value, " ")
	addr, err := netip.ParseAddrPort(first)
	if err != nil {
		return addr, nil, fmt.Errorf("parse %q: %w", value, err)
	}
	var domains []domain
	for _, word := range strings.Fields(rest) {
		name, ok := strings.CutPrefix(word, "~")
		if !ok || name == "" || name == "." {
			return addr, nil, fmt.Errorf("parse %q: %q is no routing-only domain", value, word)
		}
		domains = append(domains, domain{name, true})
	}
	return addr, domains, nil
}

// link reads a link's state back. A link that resolved has not noticed yet has the zero state.
func (r *resolve1) link(ctx context.Context, index int) (linkState, error) {
	var path dbus.ObjectPath
	if err := r.manager(ctx, "GetLink", int32(index)).Store(&path); failedWith(err, noSuchLink) {
		return linkState{}, nil
	} else if err != nil {
		return linkState{}, err
	}
	var props map[string]dbus.Variant
	if err := r.call(ctx, path, "org.freedesktop.DBus.Properties.GetAll", resolve1Link).Store(&props); failedWith(err, noSuchLink) {
		return linkState{}, nil
	} else if err != nil {
		return linkState{}, err
	}
	return parseLink(props)
}

// parseLink reads the properties of org.freedesktop.resolve1.Link.
func parseLink(props map[string]dbus.Variant) (linkState, error) {
	var s linkState
	store := func(name string, to any) error {
		v, ok := props[name]
		if !ok {
			return nil // older than the property
		}
		if err := v.Store(to); err != nil {
			return fmt.Errorf("property %s of %s: %w", name, resolve1Link, err)
		}
		return nil
	}
	var (
		scopes       uint64
		defaultRoute bool
		servers      []serverEx
		plain        []server
	)
	err := errors.Join(store("ScopesMask", &scopes), store("DefaultRoute", &defaultRoute), store("Domains", &s.domains),
		store("DNSEx", &servers), store("DNS", &plain))
	if err != nil {
		return s, err
	}
	if _, ok := props["DNSEx"]; !ok {
		for _, p := range plain {
			servers = append(servers, serverEx{Address: p.Address})
		}
	}
	for _, e := range servers {
		addr, _ := netip.AddrFromSlice(e.Address)
		if e.Port == 0 {
			e.Port = 53
		}
		s.servers = append(s.servers, netip.AddrPortFrom(addr, e.Port))
	}
	const scopeDNS = 1 << 0 // SD_RESOLVED_DNS
	s.inUse = scopes&scopeDNS != 0
	if defaultRoute {
		s.strange = append(s.strange, "default-route")
	}
	for _, name := range []string{"DNSSEC", "DNSOverTLS", "LLMNR", "MulticastDNS"} {
		mode := "no"
		if err := store(name, &mode); err != nil {
			return s, err
		}
		if mode != "no" {
			s.strange = append(s.strange, strings.ToLower(name)+"="+mode)
		}
	}
	return s, nil
}

// set tells resolved to ask addr for domains on a link. The servers come last: until then the link takes no question.
func (r *resolve1) set(ctx context.Context, index int, addr netip.AddrPort, domains []domain) error {
	i := int32(index)
	calls := []struct {
		method string
		arg    any
		newer  bool // may be missing in an older resolved, which then does not have the feature either
	}{
		{"SetLinkDefaultRoute", false, true},
		{"SetLinkDNSSEC", "no", false}, // a validating resolved has proof that our top-level domain does not exist
		{"SetLinkDNSOverTLS", "no", true},
		{"SetLinkLLMNR", "no", false},
		{"SetLinkMulticastDNS", "no", false},
		{"SetLinkDomains", domains, false},
	}
	for _, c := range calls {
		if err := r.manager(ctx, c.method, i, c.arg).Err; err != nil && !(c.newer && failedWith(err, unknownMethod)) {
			return err
		}
	}
	family := int32(unix.AF_INET)
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	err := r.manager(ctx, "SetLinkDNSEx", i, []serverEx{{family, addr.Addr().AsSlice(), addr.Port(), ""}}).Err
	if failedWith(err, unknownMethod) {
		if addr.Port() != 53 {
			return fmt.Errorf("this systemd-resolved (before 246) asks port 53 alone; use --dns-listen 127.0.0.153:53: %w", err)
		}
		err = r.manager(ctx, "SetLinkDNS", i, []server{{family, addr.Addr().AsSlice()}}).Err
	}
	return err
}

// readLink is our link as the kernel and resolved know it; none when there is no link of that name.
func readLink(ctx context.Context) ([]Entry, error) {
	l, err := findLink()
	if err != nil || l == nil {
		return nil, err
	}
	entry := Entry{Item{Resolved, linkName, ""}, l.foreign}
	if l.foreign == "" {
		r, err := dialResolve1(ctx)
		if errors.Is(err, errNotRunning) {
			return []Entry{entry}, nil // nobody knows of any setting: a bare link
		}
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", linkName, err)
		}
		defer r.close()
		state, err := r.link(ctx, l.index)
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", linkName, err)
		}
		entry.Value = state.value()
	}
	return []Entry{entry}, nil
}

// applyLink makes one step and reads it back.
func applyLink(ctx context.Context, s Step) error {
	found, err := readLink(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(found) == 0 && s.New == Item{}:
		return nil // deleting the absent
	case len(found) > 0 && found[0].Foreign != "":
		return errors.New(found[0].Foreign)
	case len(found) == 0 && s.Old != Item{}, len(found) > 0 && found[0].Item != s.Old:
		return errChanged
	case s.New == Item{}:
		return deleteLink(ctx)
	}
	return setLink(ctx, s.New.Value)
}

func setLink(ctx context.Context, value string) error {
	addr, domains, err := parseValue(value)
	if err != nil {
		return err
	}
	r, err := dialResolve1(ctx)
	if err != nil {
		return err
	}
	defer r.close()
	index, err := makeLink()
	if err != nil {
		return err
	}
	// resolved hears of links and addresses from the kernel, as we do; it has no signal that says "I have heard".
	if err := poll(ctx, func() error { return r.manager(ctx, "GetLink", int32(index)).Err }); err != nil {
		return err
	}
	if err := r.set(ctx, index, addr, domains); err != nil {
		return fmt.Errorf("tell systemd-resolved about %s: %w", linkName, err)
	}
	return poll(ctx, func() error {
		state, err := r.link(ctx, index)
		if err == nil && state.value() != value {
			err = fmt.Errorf("systemd-resolved has %q for link %s, not %q; see: resolvectl status %s", state.value(), linkName, value, linkName)
		}
		return err
	})
}

func deleteLink(ctx context.Context) error {
	l, err := findLink()
	if err != nil || l == nil {
		return err
	}
	r, err := dialResolve1(ctx)
	if err != nil && !errors.Is(err, errNotRunning) {
		return err
	}
	if err == nil {
		defer r.close()
		if err := r.manager(ctx, "RevertLink", int32(l.index)).Err; err != nil && !failedWith(err, noSuchLink) {
			return err
		}
	}
	return removeLink()
}

// poll repeats try until it succeeds or patience ends, and returns its last error.
func poll(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// watchResolve1 calls changed each time that resolved has stopped or started: what it knew of our link may be gone.
func watchResolve1(ctx context.Context, changed func()) error {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("watch systemd-resolved: connect to the system bus: %w", err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, resolve1Name))
	if err != nil {
		return fmt.Errorf("watch systemd-resolved: %w", err)
	}
	changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case s, ok := <-signals:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("watch systemd-resolved: the system bus closed the connection")
			}
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" && len(s.Body) > 0 && s.Body[0] == resolve1Name {
				changed()
			}
		}
	}
}
