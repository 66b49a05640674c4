// Package agent keeps this host's routes, names and resolver entries equal to what the watched engines have.
//
//	engine events --(an object changed)--> engine.Watch --> Update -------\
//	routes.Watch, resolver.Watch, timer, control "reconcile" --------------+--> wake --> pass
//	pilot opened or lost (pilot.go) ---------------------------------------/
//
//	pass:  compile (pure) --> routes.Diff --> journal --> routes.Apply --> read back
//	       --> names whose addresses are reachable --> zone --> resolver entries
//
// Where things are: config.go reads settings, compile.go has the opinions about subnets, names.go those about names,
// journal.go remembers what is ours, loop.go is the running agent, once.go is setup-network and teardown-network,
// pilot.go opens the VM's forwarding, status.go and control.go tell others.
package agent
