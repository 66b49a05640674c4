package engine

import (
	"errors"
	"os"
	"os/exec"
	"strings"
)

// asOwner refuses to run ssh for somebody else, as the service would: it has neither that user's keys nor that user's rights.
func asOwner(_ *exec.Cmd, home string) error {
	if own, err := os.UserHomeDir(); home != "" && (err != nil || !strings.EqualFold(own, home)) {
		return errors.New("ssh:// engines are spoken to as their user only: fairlead run in that user's prompt")
	}
	return nil
}
