package doctor

import (
	"net/netip"

	"github.com/fairlead-dev/fairlead/agent"
	"github.com/fairlead-dev/fairlead/platform"
	"github.com/fairlead-dev/fairlead/resolver"
	"github.com/fairlead-dev/fairlead/routes"
)

// Facts are all that the checks look at.
type Facts struct {
	OS      string // GOOS
	Version string // this program's
	Config  agent.Config
	Rights  error // what this process lacks to see and change all; nil: nothing
	Service Service

	Running  bool         // an agent answered at the control endpoint
	AgentErr error        // why it did not; nil when none is there
	Status   agent.Status // the agent's, else what one would find
	LookErr  error        // why there is not even that
	Names    []agent.Name // that are answered, a running agent's

	Links       []platform.Link
	Nameservers []netip.Addr
	Table       []routes.Entry
	TableErr    error

	Gateways map[string]Answer // by engine: what the VM's address said, for the kind Gateway
	Packets  []Answer          // what became of a real packet to each of Status.Subnets

	Addrs map[netip.Addr]Answer // what became of one to each address of the name that is followed

	Domain    string       // of our server's: the first that it serves
	Known     string       // a name that it should answer; "" where there is none
	Want      []netip.Addr // the addresses of Known
	UDP, TCP  Reply        // our server's, to Known, else to a question about Domain
	Holder    string       // who has our server's port while we do not, for people; "" for nobody
	HolderPID int          // 0: not told

	Entries    resolver.Plan // what the OS lacks to ask us
	EntriesErr error
	Strays     []resolver.Item // entries of ours while no agent runs
	Fresh      Reply           // the OS's, to a name below Known that nobody has asked before
	Cached     Reply           // the OS's, to Known

	Leftovers []Leftover
}

// Service is what the OS's service manager says of ours.
type Service struct {
	Installed, Running bool
	Manager            string // "systemd", "launchd", ...
	Err                error
}

// Answer is what became of a packet.
type Answer struct {
	Asked bool
	OK    bool
	Says  string // "172.17.0.2 answered in 0.2ms", or why not
}

// Reply is what a DNS server or the OS said to a question for addresses.
type Reply struct {
	Asked bool
	Rcode string // "NOERROR", "NXDOMAIN", ...; "" from the OS, which does not tell
	Addrs []netip.Addr
	Err   error // nobody answered
}
