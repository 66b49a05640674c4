package platform

import "os"

// Variables are those of an environment that Discover looks at.
var Variables = []string{
	"BOOT2DOCKER_DIR", "BOOT2DOCKER_PROFILE", "COLIMA_HOME", "DOCKER_CERT_PATH", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST",
	"DOCKER_TLS_VERIFY", "LIMA_HOME", "MACHINE_STORAGE_PATH", "MINIKUBE_HOME", "TMPDIR", "VAGRANTFILE", "VAGRANT_HOME",
	"XDG_CONFIG_HOME", "XDG_RUNTIME_DIR",
}

// Homes are the homes of those who may name engines, and now are here: whoever has sudo run this process, else its own user;
// and who sits at the console.
func Homes() []Home {
	var homes []Home
	for _, dir := range []string{callersHome(), consoleHome()} {
		h, err := HomeAt(dir)
		if err == nil && (len(homes) == 0 || homes[0] != h) {
			homes = append(homes, h)
		}
	}
	return homes
}

// HomeAt is the home folder at dir; its owner is who may name engines there.
func HomeAt(dir string) (Home, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return Home{}, err
	}
	if !fi.IsDir() {
		return Home{}, &os.PathError{Op: "open", Path: dir, Err: errNotFolder}
	}
	return Home{Dir: dir, UID: ownerOf(fi)}, nil
}
