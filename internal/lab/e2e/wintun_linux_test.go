package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lab"
)

// A PC without wintun.dll has no tunnel, and says which file to put where.
func TestWindowsTunnelWithoutItsDriver(t *testing.T) {
	p := newPC(t)
	vm := p.StartVM(t, lab.VMOptions{TCP: true})
	docker(t, vm, "run", "-d", "--name", "web", "web")
	p.watch(vm.URL())
	p.start("--gateway", "tunnel")
	p.within(time.Minute, "status names the missing file", func() error {
		s := p.status()
		said := fmt.Sprintf("%+v", s)
		if len(s.Engines) == 1 && s.Engines[0].Pilot != nil {
			said = fmt.Sprintf("%+v", *s.Engines[0].Pilot)
		}
		for _, want := range []string{"wintun.dll is missing", "https://www.wintun.net", `wintun\bin\amd64`} {
			if !strings.Contains(said, want) {
				return fmt.Errorf("no %q in %s", want, said)
			}
		}
		return nil
	})
}
