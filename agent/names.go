package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/agent/engine"
	"github.com/fairlead-dev/fairlead/dnsserver"
)

// rank orders claims on one name: the lowest has it. Claims of one rank share the name when they are of one group, such as
// the replicas of a service; otherwise nobody has it, as no rule says who.
type rank int

// The rules of docs/naming.md. What the engine vouches for goes first, then what a container's labels say, then what Fairlead
// makes of them, and last what other tools would have made. Each rank has room for byCase and the engine's priority.
const (
	byID            rank = iota * 1000 // the 12 digits of its id
	byName                             // web
	byNetwork                          // web.backend
	byEngine                           // web.dev
	byServiceNumber                    // 2.api.shop
	byService                          // api.shop
	byLoneService                      // api
	byAlias                            // a network alias
	byLabel                            // fairlead.names
	byMapping                          // my-app for my_app
	byOtherLabel                       // a name that was written for another tool
	byImage                            // web.nginx, web.nginx.dev, nginx.dev: dnsdock's and skydock's
	byWildcard                         // *.shop
	byAddress                          // a reverse name
)

// byCase is added for a name that was written with capitals: "Web" gives way to "web".
const byCase rank = 500

// kind is the rank without byCase and the engine's priority.
func (r rank) kind() rank { return r / 1000 * 1000 }

// String is the rule of docs/naming.md by which a name of this rank is one.
func (r rank) String() string {
	return map[rank]string{
		byID: "id", byName: "name", byNetwork: "network", byEngine: "engine", byServiceNumber: "replica", byService: "service", byLoneService: "service",
		byAlias: "alias", byLabel: "label", byMapping: "mapping", byOtherLabel: "other label", byImage: "image", byWildcard: "wildcard", byAddress: "address",
	}[r.kind()]
}

// fit tells how likely a container is to answer now. Of those that share a name the fittest are told.
type fit int

const (
	ready fit = iota
	starting
	unhealthy
	paused
)

const (
	maxListed   = 32 // names or services that are taken from one list in a label
	maxServices = 32 // that one container is found by
	maxAnswers  = 64 // containers that one name answers
	maxTXT      = 64 // texts that one name answers
	maxReverse  = 64 // domains for addresses
)

// claim is one container's wish for one name.
type claim struct {
	name  string // without the domain; one that ends with a dot is whole: a reverse name
	rank  rank
	group string
	fit   fit
	addrs []netip.Addr
	more  *card
	deny  string // not empty: why the name cannot be had at all
}

// card is what else a container's names answer. All its claims share one.
type card struct {
	services []service
	txt      []string      // sorted
	ttl      time.Duration // as in dnsserver.Record
}

// service is a port with a name: "_http._tcp".
type service struct {
	name string
	port uint16
}

// place is where a container runs, as claims sees it.
type place struct {
	engine    string
	domains   []string              // that are served for names, lower-case
	several   bool                  // more than one engine is watched
	priority  int                   // the engine's place in the order of engines
	vm        netip.Addr            // the address of containers in the VM's own network, where this host reaches it
	reachable func(netip.Addr) bool // tells which addresses this host can send packets to; nil: nothing is to be claimed
}

// claims are all names that a container asks for, with what it would answer there. It is pure, and looks at no other
// container: what one costs does not depend on how many there are. Names without a reachable address are not claimed.
func claims(at place, c engine.Container) []claim {
	if len(c.Endpoints) == 0 && !c.HostNetwork {
		return nil
	}
	other := otherTools(c)
	if at.reachable == nil || isTrue(c.Labels["fairlead.ignore"]) || other.hide {
		return nil
	}
	b := claimant{at: at, fit: fitness(c), more: cardOf(at, c, other), claims: make([]claim, 0, 6+2*len(c.Endpoints))}
	var all []netip.Addr
	if c.HostNetwork && at.vm.IsValid() {
		all = append(all, at.vm)
	}
	var here [][]netip.Addr
	for _, e := range c.Endpoints {
		var reach []netip.Addr
		for _, a := range e.Addrs {
			if at.reachable(a) {
				reach = append(reach, a)
				b.reverse(a)
			}
		}
		here = append(here, reach)
		all = append(all, reach...)
	}
	if len(all) == 0 {
		return nil
	}
	if len(c.ID) >= 12 {
		b.add(byID, c.ID, all, c.ID[:12])
	}
	b.add(byName, c.ID, all, c.Name)
	for i, e := range c.Endpoints {
		b.add(byNetwork, c.ID, here[i], c.Name, e.Network)
		for _, alias := range e.Aliases {
			if len(alias) != 12 || !strings.HasPrefix(c.ID, alias) { // older engines put the short id among them
				b.add(byAlias, e.NetworkID, here[i], alias)
			}
		}
	}
	if at.several || at.engine == skydockEnv { // a lone engine "dev" too: web.dev is its web before it is skydock's image web
		b.add(byEngine, c.ID, all, c.Name, at.engine)
	}
	group := c.ID // of names that its labels ask for: replicas of a service share these
	if service, project, ok := composed(c); ok {
		group = project + "\x00" + service
		b.add(byService, group, all, service, project)
		b.add(byLoneService, group, all, service)
		if n, err := strconv.Atoi(c.Labels["com.docker.compose.container-number"]); err == nil && n > 0 {
			b.add(byServiceNumber, c.ID, all, strconv.Itoa(n), service, project)
		}
	}
	for _, name := range listed(c.Labels["fairlead.names"]) {
		b.ask(byLabel, group, all, name, true)
	}
	for _, n := range other.names {
		b.ask(byOtherLabel, cmp.Or(n.group, group), other.choose(at, c, n.tool, all), n.name, false)
	}
	if !at.several { // else "redis.dev" is the container "redis" of an engine, and nobody's when that one stops
		for _, parts := range other.skydock {
			b.add(byImage, "images", all, parts...)
		}
	}
	for _, parts := range other.images {
		b.add(byImage, "images", other.choose(at, c, dnsdock, all), parts...)
	}
	return b.claims
}

// claimant gathers the claims of one container.
type claimant struct {
	at     place
	fit    fit
	more   *card
	claims []claim

	group, whole string // the last one, by itself and with its engine
}

// add claims the name that the parts make, and the name that they are mapped to where that is another.
func (b *claimant) add(r rank, group string, addrs []netip.Addr, parts ...string) {
	written := strings.Join(parts, ".")
	name := lower(written)
	if name != written {
		b.claim(name, r+byCase, group, addrs)
	} else {
		b.claim(name, r, group, addrs)
	}
	if r == byImage {
		return
	}
	same := true
	for i, p := range parts {
		if parts[i] = mapped(p); parts[i] == "" {
			return
		}
		same = same && parts[i] == p
	}
	if same {
		return
	}
	if m := strings.Join(parts, "."); m != name {
		b.claim(m, byMapping, group, addrs)
	}
}

// claim claims a name if it can be one.
func (b *claimant) claim(name string, r rank, group string, addrs []netip.Addr) {
	if len(addrs) > 0 && b.reason(name) == "" {
		r += rank(min(b.at.priority, int(byCase)-1))
		if group != b.group || b.whole == "" {
			b.group, b.whole = group, b.at.engine+"\x00"+group
		}
		b.claims = append(b.claims, claim{name: name, rank: r, group: b.whole, fit: b.fit, addrs: addrs, more: b.more})
	}
}

// ask claims a name as somebody wrote it: whole, or, where that is allowed, without a domain. "*.x" and ".x" stand for what
// is below x, which x itself does too; unlike x they give way to everybody.
func (b *claimant) ask(r rank, group string, addrs []netip.Addr, written string, short bool) {
	name := strings.TrimSuffix(lower(written), ".")
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "*"), "."); ok {
		name, r = rest, byWildcard
	}
	var rest string
	for _, d := range b.at.domains {
		if name == d {
			b.refuse(written, "a whole domain is nobody's")
			return
		}
		if cut, ok := strings.CutSuffix(name, "."+d); ok && (rest == "" || len(cut) < len(rest)) {
			rest = cut
		}
	}
	switch {
	case rest != "":
		name = rest
	case !short:
		b.refuse(written, "it lies outside the served domains, "+strings.Join(b.at.domains, ", "))
		return
	}
	if why := b.reason(name); why != "" {
		b.refuse(written, why)
		return
	}
	if len(addrs) == 0 {
		b.refuse(written, "the address that its labels choose cannot be reached from here")
		return
	}
	b.claim(name, r, group, addrs)
}

// refuse notes for status a name that was asked for in so many words and cannot be had.
func (b *claimant) refuse(written, why string) {
	b.claims = append(b.claims, claim{name: shown(written), deny: why})
}

// reverse claims the reverse name of an address. Who shares another's network shares its addresses too.
func (b *claimant) reverse(a netip.Addr) {
	b.claims = append(b.claims, claim{name: dnsserver.ReverseName(a) + ".", rank: byAddress, more: b.more})
}

// reason says why a name cannot be had, if it cannot.
func (b *claimant) reason(name string) string {
	longest := 0
	for _, d := range b.at.domains {
		longest = max(longest, len(d))
	}
	switch {
	case !dnsserver.ValidName(name):
		return "it is no DNS name"
	case len(name)+1+longest > 253:
		return "it is too long"
	case name == "ns":
		return "ns is the DNS server itself"
	}
	if !strings.Contains(name, "_") { // as nearly always
		return ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "_tcp" || label == "_udp" || label == "_sctp" {
			return "names of services follow from ports"
		}
	}
	return ""
}

// lower is strings.ToLower for ASCII alone: in DNS nothing else has a case (RFC 4343, 3).
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for i := i; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// mapped makes labels of a name that Docker takes: "_" becomes "-", and what that does not make labels of is cut to what it
// does, with the beginning of a hash of the whole, so that two such names never meet. Names that Docker does not take have
// none.
func mapped(name string) string {
	if len(name) <= 120 && !strings.Contains(name, "_") && dnsserver.ValidName(name) { // it is as it should be
		return name
	}
	simple := lower(name)
	if name == "" || strings.ContainsAny(name[:1], "_.-") || strings.ContainsFunc(simple, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '.' && r != '-'
	}) {
		return ""
	}
	simple = strings.ReplaceAll(simple, "_", "-")
	if dnsserver.ValidName(simple) && len(simple) <= 120 {
		return simple
	}
	var labels []string
	for label := range strings.SplitSeq(simple, ".") {
		if label = strings.Trim(label[:min(len(label), 63)], "-"); label != "" {
			labels = append(labels, label)
		}
	}
	if len(strings.Join(labels, ".")) > 120 {
		labels = labels[:1]
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:4])
	if len(labels) == 0 {
		return "x-" + hash
	}
	labels[0] = strings.TrimRight(labels[0][:min(len(labels[0]), 63-1-len(hash))], "-") + "-" + hash
	return strings.Join(labels, ".")
}

// fitness reads Docker's words for how a container is.
func fitness(c engine.Container) fit {
	switch {
	case c.State == "paused" || c.State == "restarting":
		return paused
	case c.Health == "unhealthy":
		return unhealthy
	case c.Health == "starting":
		return starting
	}
	return ready
}

// composed gives a container's compose service. One that `compose run` made is no replica of it.
func composed(c engine.Container) (service, project string, ok bool) {
	service, project = c.Labels["com.docker.compose.service"], c.Labels["com.docker.compose.project"]
	return service, project, service != "" && project != "" && !strings.EqualFold(c.Labels["com.docker.compose.oneoff"], "true")
}

// cardOf gives what the TXT and SRV records of a container's names say.
func cardOf(at place, c engine.Container, other otherNames) *card {
	d := &card{ttl: other.ttl, services: services(c, other), txt: make([]string, 0, 6)}
	if ttl, ok := seconds(c.Labels["fairlead.ttl"]); ok {
		d.ttl = ttl
	}
	service, project, _ := composed(c)
	for _, kv := range [][2]string{{"id", c.ID[:min(len(c.ID), 12)]}, {"name", c.Name}, {"image", c.Image}, {"engine", at.engine}, {"project", project}, {"service", service}} {
		if kv[1] != "" {
			text := kv[0] + "=" + kv[1]
			d.txt = append(d.txt, text[:min(len(text), 255)])
		}
	}
	slices.Sort(d.txt)
	return d
}

// services are a container's exposed ports and those that labels name, as "_80._tcp" and "_http._tcp". Who names a port by
// hand takes the place of its usual name.
func services(c engine.Container, other otherNames) []service {
	if len(c.Ports) == 0 && len(other.services) == 0 && c.Labels["fairlead.services"] == "" {
		return nil
	}
	names := map[engine.Port]string{}
	for p, n := range other.services {
		names[p] = n
	}
	ports := c.Ports[:min(len(c.Ports), maxServices)]
	for _, entry := range listed(c.Labels["fairlead.services"]) {
		name, at, _ := strings.Cut(entry, "=")
		number, proto, given := strings.Cut(at, "/")
		if !given {
			proto = "tcp"
		}
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 && slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
			names[engine.Port{Number: uint16(n), Proto: proto}] = name
		}
	}
	all := map[engine.Port]bool{}
	for _, p := range ports {
		all[p] = true
	}
	for p := range names {
		all[p] = true
	}
	var out []service
	for p := range all {
		out = append(out, service{name: fmt.Sprintf("_%d._%s", p.Number, p.Proto), port: p.Number})
		name := lower(cmp.Or(names[p], wellKnown[p]))
		// At most 15 letters, digits and hyphens, one of them a letter (RFC 6335, 5.1).
		if len(name) <= 15 && !strings.ContainsAny(name, "._") && dnsserver.ValidName(name) && strings.ContainsAny(name, "abcdefghijklmnopqrstuvwxyz") {
			out = append(out, service{name: "_" + name + "._" + p.Proto, port: p.Number})
		}
	}
	slices.SortFunc(out, func(a, b service) int { return cmp.Or(cmp.Compare(a.port, b.port), strings.Compare(a.name, b.name)) })
	return slices.Compact(out[:min(len(out), 2*maxServices)])
}

// wellKnown are services by their usual ports, with IANA's names
// (https://www.iana.org/assignments/service-names-port-numbers).
var wellKnown = map[engine.Port]string{
	{Number: 21, Proto: "tcp"}: "ftp", {Number: 22, Proto: "tcp"}: "ssh", {Number: 25, Proto: "tcp"}: "smtp",
	{Number: 53, Proto: "tcp"}: "domain", {Number: 53, Proto: "udp"}: "domain", {Number: 80, Proto: "tcp"}: "http",
	{Number: 110, Proto: "tcp"}: "pop3", {Number: 123, Proto: "udp"}: "ntp", {Number: 143, Proto: "tcp"}: "imap",
	{Number: 161, Proto: "udp"}: "snmp", {Number: 389, Proto: "tcp"}: "ldap", {Number: 443, Proto: "tcp"}: "https",
	{Number: 443, Proto: "udp"}: "https", {Number: 514, Proto: "udp"}: "syslog", {Number: 587, Proto: "tcp"}: "submission",
	{Number: 636, Proto: "tcp"}: "ldaps", {Number: 993, Proto: "tcp"}: "imaps", {Number: 995, Proto: "tcp"}: "pop3s",
	{Number: 1883, Proto: "tcp"}: "mqtt", {Number: 2049, Proto: "tcp"}: "nfs", {Number: 3306, Proto: "tcp"}: "mysql",
	{Number: 5432, Proto: "tcp"}: "postgresql", {Number: 5672, Proto: "tcp"}: "amqp", {Number: 6379, Proto: "tcp"}: "redis",
	{Number: 8080, Proto: "tcp"}: "http-alt", {Number: 11211, Proto: "tcp"}: "memcache",
}

// seconds reads a TTL, as dnsserver.Record has it. What is no number, or negative, is none.
func seconds(s string) (time.Duration, bool) {
	if s == "" { // as nearly always
		return 0, false
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil || n < 0:
		return 0, false
	case n == 0:
		return 1, true // "do not keep"
	}
	return time.Duration(min(n, 5)) * time.Second, true
}

// listed splits a list at commas; what is beyond maxListed is left out.
func listed(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" && len(out) < maxListed {
			out = append(out, part)
		}
	}
	return out
}

func isTrue(s string) bool {
	if s == "" {
		return false
	}
	b, err := strconv.ParseBool(strings.TrimSpace(s))
	return err == nil && b
}

// directory decides who has a name. What a change of one container costs depends only on the names that it claims, and hardly on
// how many others claim them. Claims are long, and follow from their container: those on a name that nobody else wants, as
// nearly all are, are made anew when they are needed, and what is kept of such a name is 8 bytes.
type directory struct {
	claims    func(owner) []claim // those that were last put
	alone     engine.Index        // owners, by the names that they alone claim
	shared    map[string]*ranking // names that several do
	denied    map[owner][]claim   // what cannot be had
	published map[string][]string // between the first put and records: the services that records gave with a name
	names     int                 // in alone, without reverse ones
	now, last remembered          // of the owner that is being put, and of who was asked for last
}

// remembered spares calls of claims.
type remembered struct {
	owner  owner
	claims []claim
}

// owner is a container: the place of its engine, from 1 on, and its number there.
type owner uint32

const numberBits = 22

func ownerOf(slot int, number uint32) owner { return owner(slot)<<numberBits | owner(number) }
func (o owner) slot() int                   { return int(o >> numberBits) }
func (o owner) number() uint32              { return uint32(o) & (1<<numberBits - 1) }

// held is a claim with its owner.
type held struct {
	owner owner
	claim
}

func compareHeld(a, b *held) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.group, b.group), cmp.Compare(a.fit, b.fit), cmp.Compare(a.owner, b.owner))
}

// ranking is the claims on one name in the order of compareHeld, in runs: a name that a hundred thousand share is not moved
// as a whole when one comes or goes.
type ranking struct{ runs [][]*held }

const maxRun = 256

// seek finds h's place; at is len(run) for one after all others.
func (r *ranking) seek(h *held) (run, at int, found bool) {
	run = sort.Search(len(r.runs)-1, func(i int) bool { return compareHeld(r.runs[i][len(r.runs[i])-1], h) >= 0 })
	at, found = slices.BinarySearchFunc(r.runs[run], h, compareHeld)
	return run, at, found
}

func (r *ranking) insert(h *held) {
	if len(r.runs) == 0 {
		r.runs = [][]*held{{h}}
		return
	}
	run, at, _ := r.seek(h)
	list := slices.Insert(r.runs[run], at, h)
	if r.runs[run] = list; len(list) > maxRun {
		r.runs[run] = slices.Clone(list[:maxRun/2])
		r.runs = slices.Insert(r.runs, run+1, slices.Clone(list[maxRun/2:]))
	}
}

func (r *ranking) remove(h *held) bool {
	run, at, found := r.seek(h)
	if found {
		if r.runs[run] = slices.Delete(r.runs[run], at, at+1); len(r.runs[run]) == 0 {
			r.runs = slices.Delete(r.runs, run, run+1)
		}
	}
	return found
}

// all goes through the claims, the most important first.
func (r *ranking) all(yield func(*held) bool) {
	if r == nil {
		return
	}
	for _, run := range r.runs {
		for _, h := range run {
			if !yield(h) {
				return
			}
		}
	}
}

// lastOf is the last of those that have the rank of the first.
func (r *ranking) lastOf() *held {
	next := &held{claim: claim{rank: r.runs[0][0].rank + 1}}
	run, at, _ := r.seek(next)
	if at == 0 {
		run--
		at = len(r.runs[run])
	}
	return r.runs[run][at-1]
}

func newDirectory(claims func(owner) []claim) *directory {
	return &directory{claims: claims, shared: map[string]*ranking{}, denied: map[owner][]claim{}, published: map[string][]string{}}
}

// of are the claims that were last put for an owner.
func (d *directory) of(o owner) []claim {
	if d.now.owner == o {
		return d.now.claims
	}
	if d.last.owner != o {
		d.last = remembered{o, d.claims(o)}
	}
	return d.last.claims
}

// bestOn is an owner's claim on a name: of several the first of the best rank counts.
func bestOn(name string, cs []claim) (best claim, ok bool) {
	for _, c := range cs {
		if c.name == name && c.deny == "" && (!ok || c.rank < best.rank) {
			best, ok = c, true
		}
	}
	return best, ok
}

// sole is the claim on a name that one owner alone has.
func (d *directory) sole(name string) (h *held) {
	d.alone.Find(name, func(n uint32) bool {
		if c, ok := bestOn(name, d.of(owner(n))); ok {
			h = &held{owner(n), c}
		}
		return h != nil
	})
	return h
}

// put replaces all claims of owner, which were old, and returns the names that may have changed.
func (d *directory) put(o owner, old, now []claim) []string {
	changed := make([]string, 0, len(old)+len(now))
	moved := map[owner]bool{} // whose services and addresses may have to point at another name
	d.now, d.last = remembered{o, old}, remembered{}
	for _, cs := range [][]claim{old, now} {
		for _, c := range cs {
			if c.deny != "" {
				continue
			}
			changed = append(changed, c.name)
			if _, put := d.published[c.name]; put {
				continue
			}
			var given []string
			for _, h := range d.holder(c.name).has {
				for _, s := range h.more.list() {
					given = append(given, s.name)
				}
			}
			d.published[c.name] = given
		}
	}
	for _, c := range old {
		if best, _ := bestOn(c.name, old); c.deny == "" && !d.remove(c.name, &held{o, best}) {
			continue // it is there twice
		}
		if h := d.sole(c.name); h != nil && h.owner != o {
			moved[h.owner] = true
		}
	}
	d.now.claims = nil
	delete(d.denied, o)
	for i, c := range now {
		best, _ := bestOn(c.name, now)
		if _, twice := bestOn(c.name, now[:i]); c.deny != "" {
			d.denied[o] = append(d.denied[o], c)
		} else if !twice {
			d.insert(c.name, held{o, best})
		}
	}
	d.now.claims = now
	for _, n := range changed {
		for h := range d.shared[n].all {
			if h.rank.kind() > byName {
				break
			}
			moved[h.owner] = true
		}
	}
	delete(moved, o)
	for other := range moved {
		for _, c := range d.of(other) {
			if c.deny == "" {
				changed = append(changed, c.name)
			}
		}
	}
	slices.Sort(changed)
	return slices.Compact(changed)
}

func (d *directory) insert(name string, h held) {
	r := d.shared[name]
	if r == nil {
		other := d.sole(name)
		if other == nil {
			d.alone.Add(name, uint32(h.owner))
			d.count(name, 1)
			return
		}
		d.alone.Remove(name, uint32(other.owner))
		d.count(name, -1)
		r = &ranking{}
		r.insert(other)
		d.shared[name] = r
	}
	r.insert(&held{h.owner, h.claim})
}

// remove takes a claim away, if it is there.
func (d *directory) remove(name string, h *held) bool {
	r := d.shared[name]
	if r == nil {
		had := d.alone.Remove(name, uint32(h.owner))
		if had {
			d.count(name, -1)
		}
		return had
	}
	had := r.remove(h)
	if len(r.runs) == 1 && len(r.runs[0]) == 1 {
		delete(d.shared, name)
		d.alone.Add(name, uint32(r.runs[0][0].owner))
		d.count(name, 1)
	}
	return had
}

func (d *directory) count(name string, by int) {
	if !strings.HasSuffix(name, ".") {
		d.names += by
	}
}

// crowded tells whether so many claim a name that its record is better made once after many changes.
func (d *directory) crowded(name string) bool {
	r := d.shared[name]
	return r != nil && (len(r.runs) > 1 || len(r.runs[0]) > 4)
}

// holder is who has a name.
type holder struct {
	has []*held // who answers; nobody has the name when it is empty
	all *ranking
	why string // those lost whom others lists
}

// holder decides about one name.
func (d *directory) holder(name string) holder {
	r := d.shared[name]
	if r == nil {
		if h := d.sole(name); h != nil {
			return holder{has: []*held{h}}
		}
		return holder{}
	}
	best := r.runs[0][0]
	if r.lastOf().group != best.group {
		return holder{all: r, why: "several have the same right to this name"}
	}
	h := holder{all: r, why: "an exact or more important name goes first"}
	for c := range r.all {
		if c.rank != best.rank || c.fit != best.fit || len(h.has) == maxAnswers {
			break
		}
		h.has = append(h.has, c)
	}
	return h
}

// others are those who do not answer though they asked for the name: rest because they share it with somebody in better health,
// or with many enough, and lost because of why. Of each the first maxAnswers are told.
func (h holder) others() (rest, lost []*held) {
	i := 0
	for c := range h.all.all {
		switch i++; {
		case i <= len(h.has):
		case len(h.has) > 0 && c.rank == h.has[0].rank:
			rest = append(rest, c)
		default:
			lost = append(lost, c)
		}
		if len(lost) == maxAnswers {
			break
		}
	}
	return rest[:min(len(rest), maxAnswers)], lost
}

// owners are whose the claims are.
func owners(list []*held) []owner {
	var out []owner
	for _, h := range list {
		out = append(out, h.owner)
	}
	slices.Sort(out)
	return out
}

// addrs are the addresses that the name answers, each once.
func (h holder) addrs() []netip.Addr {
	var all []netip.Addr
	for _, c := range h.has {
		all = append(all, c.addrs...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// bestName is the name that stands for a container alone, its own before its id: "" when it has none.
func (d *directory) bestName(o owner, kinds ...rank) string {
	for _, kind := range kinds {
		cs := d.of(o)
		for _, c := range cs {
			if best, _ := bestOn(c.name, cs); c.deny == "" && best.rank.kind() == kind && d.has(o, c.name) {
				return c.name
			}
		}
	}
	return ""
}

// has tells whether an owner is among those that a name answers.
func (d *directory) has(o owner, name string) bool {
	return slices.ContainsFunc(d.holder(name).has, func(h *held) bool { return h.owner == o })
}

// records adds to out what the names answer now, whole, as Zone.Update takes them: nil for nothing. Every name is given in each
// domain, except where a longer one of the domains has it in itself. With a name go the services that its holders have.
func (d *directory) records(out map[string]*dnsserver.Record, names, domains []string) {
	for _, n := range names {
		given := d.published[n]
		delete(d.published, n)
		if whole, ok := strings.CutSuffix(n, "."); ok {
			out[whole] = d.reverseRecord(n, domains)
			continue
		}
		h := d.holder(n)
		var services map[string]bool // true for those that are there now
		note := func(service string, there bool) {
			if services == nil {
				services = map[string]bool{}
			}
			services[service] = there
		}
		for _, s := range given {
			note(s, false)
		}
		for _, c := range h.has {
			for _, s := range c.more.list() {
				note(s.name, true)
			}
		}
		for _, domain := range domains {
			whole := n + "." + domain
			if slices.ContainsFunc(domains, func(o string) bool { return len(o) > len(domain) && (whole == o || strings.HasSuffix(whole, "."+o)) }) {
				continue
			}
			out[whole] = h.record()
			for s, there := range services {
				out[s+"."+whole] = nil
				if there {
					out[s+"."+whole] = d.serviceRecord(h, s, domain)
				}
			}
		}
	}
}

// record is what an ordinary name answers, and every name below it that does not exist.
func (h holder) record() *dnsserver.Record {
	if len(h.has) == 0 {
		return nil
	}
	r := &dnsserver.Record{TTL: h.ttl(), Wildcard: true}
	if one := h.has[0]; len(h.has) == 1 && one.more != nil {
		r.Addrs, r.TXT = one.addrs, one.more.txt
		return r
	}
	r.Addrs = h.addrs()
	for _, c := range h.has {
		if c.more != nil {
			r.TXT = append(r.TXT, c.more.txt...)
		}
	}
	slices.Sort(r.TXT)
	r.TXT = slices.Compact(r.TXT)
	r.TXT = r.TXT[:min(len(r.TXT), maxTXT)]
	return r
}

func (d *directory) serviceRecord(h holder, name, domain string) *dnsserver.Record {
	r := &dnsserver.Record{TTL: h.ttl()}
	for _, c := range h.has {
		target := d.bestName(c.owner, byID, byName)
		for _, s := range c.more.list() {
			if s.name == name && target != "" {
				r.SRV = append(r.SRV, dnsserver.SRV{Port: s.port, Target: target + "." + domain})
			}
		}
	}
	if r.SRV == nil {
		return nil
	}
	return r
}

func (d *directory) reverseRecord(name string, domains []string) *dnsserver.Record {
	h := d.holder(name)
	r := &dnsserver.Record{TTL: h.ttl()}
	for _, c := range h.has {
		if best := d.bestName(c.owner, byName, byID); best != "" && len(domains) > 0 {
			r.PTR = append(r.PTR, best+"."+domains[0])
		}
	}
	if r.PTR == nil {
		return nil
	}
	return r
}

// ttl is the shortest that a holder asks for, zero when none does.
func (h holder) ttl() (ttl time.Duration) {
	for _, c := range h.has {
		if c.more != nil && c.more.ttl > 0 && (ttl == 0 || c.more.ttl < ttl) {
			ttl = c.more.ttl
		}
	}
	return ttl
}

func (m *card) list() []service {
	if m == nil {
		return nil
	}
	return m.services
}

// reverseDomains are the domains to serve for the addresses of the subnets, at most maxReverse. left are the subnets whose
// addresses have no names, as theirs would be too many.
func reverseDomains(subnets []netip.Prefix) (domains []string, left []netip.Prefix) {
	for _, p := range subnets {
		more := dnsserver.ReverseDomains(p)
		all := slices.Concat(domains, more)
		slices.Sort(all)
		all = slices.Compact(all)
		if len(more) == 0 || len(all) > maxReverse {
			left = append(left, p)
			continue
		}
		domains = all
	}
	return domains, left
}
