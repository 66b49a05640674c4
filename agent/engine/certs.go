package engine

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// maxPEM is more than a chain of certificates needs, in bytes.
const maxPEM = 1 << 20

// tls is how to speak to an engine with the certificates in Certs, as docker does: docs.docker.com/engine/security/protect-access.
func (e Endpoint) tls() (*tls.Config, error) {
	dir, rel, err := e.folder()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
	}
	var pem [3][]byte
	for i, name := range []string{"ca.pem", "cert.pem", "key.pem"} {
		if pem[i], err = readPEM(dir, filepath.Join(rel, name)); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(e.Certs, name), err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem[0]) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(e.Certs, "ca.pem"))
	}
	own, err := tls.X509KeyPair(pem[1], pem[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(e.Certs, "cert.pem and key.pem"), err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{own}}, nil
}

// outlived names our own certificate in err where it has expired: an engine only says that it is a bad one.
func outlived(own *tls.Config, now time.Time, err error) error {
	if own == nil || len(own.Certificates) == 0 || own.Certificates[0].Leaf == nil {
		return err
	}
	if end := own.Certificates[0].Leaf.NotAfter; now.After(end) {
		return fmt.Errorf("cert.pem expired on %s: %w", end.UTC().Format(time.DateOnly), err)
	}
	return err
}

// folder opens what no link of Certs may lead out of: the user's home, or Certs itself where a variable put it elsewhere. It
// is nil when whoever runs fairlead named Certs.
func (e Endpoint) folder() (dir *os.Root, rel string, err error) {
	if e.Home == "" {
		return nil, e.Certs, nil
	}
	if rel, err = filepath.Rel(e.Home, e.Certs); err == nil && filepath.IsLocal(rel) {
		dir, err = os.OpenRoot(e.Home)
		return dir, rel, err
	}
	dir, err = os.OpenRoot(e.Certs)
	return dir, ".", err
}

func readPEM(dir *os.Root, name string) ([]byte, error) {
	stat, open := os.Stat, os.Open
	if dir != nil {
		stat, open = dir.Stat, dir.Open
	}
	fi, err := stat(name)
	if err == nil && !fi.Mode().IsRegular() { // opening a FIFO would wait for its writer
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, reason(err)
	}
	f, err := open(name)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(b) > maxPEM {
		err = fmt.Errorf("larger than %d bytes", maxPEM)
	}
	return b, reason(err)
}

// reason is a file's error without its path.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
