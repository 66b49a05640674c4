// Command macpkg writes a flat package for the macOS installer, on any OS: a xar archive of a Distribution and one component, which
// is PackageInfo, Bom, Payload and Scripts. All that it installs belongs to root:wheel.
//
//	macpkg -id dev.fairlead -version 1.2.3 -arch arm64 -title Fairlead -scripts DIR -o fairlead.pkg ROOT
//
// ROOT is what comes to lie in /. Its regular files and folders are packed, in the order of their names and with one date, so
// that the same files give the same bytes.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

func main() {
	var p product
	var scripts, out string
	var date int64
	flag.StringVar(&p.ID, "id", "", "identifier, as in dev.fairlead")
	flag.StringVar(&p.Version, "version", "", "version of the package")
	flag.StringVar(&p.Arch, "arch", "", "arm64 or x86_64")
	flag.StringVar(&p.Title, "title", "", "what the installer's window says")
	flag.StringVar(&scripts, "scripts", "", "folder with preinstall or postinstall")
	flag.StringVar(&out, "o", "", "file to write")
	flag.Int64Var(&date, "date", 0, "of all files, in seconds since 1970")
	flag.Parse()
	err := func() (err error) {
		if flag.NArg() != 1 || out == "" {
			return errors.New("usage: macpkg -id ID -version V -arch ARCH -title TITLE [-scripts DIR] [-date SECONDS] -o FILE ROOT")
		}
		if p.root, err = read(flag.Arg(0)); err != nil {
			return err
		}
		if scripts != "" {
			if p.scripts, err = read(scripts); err != nil {
				return err
			}
		}
		p.date = time.Unix(date, 0).UTC()
		b, err := p.pack()
		if err != nil {
			return err
		}
		return os.WriteFile(out, b, 0o644)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "macpkg:", err)
		os.Exit(1)
	}
}

// node is a file or a folder that is packed.
type node struct {
	path    string // "." or "./usr/local"
	mode    uint32 // st_mode
	content []byte // of a file
}

func (n node) dir() bool { return n.mode&0o170000 == 0o040000 }

// read reads a tree, sorted by path.
func read(root string) (nodes []node, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		n := node{path: ".", mode: 0o040755}
		if rel != "." {
			n.path = "./" + filepath.ToSlash(rel)
		}
		switch {
		case d.IsDir():
		case d.Type().IsRegular():
			i, err := d.Info()
			if err != nil {
				return err
			}
			if n.mode = 0o100644; i.Mode()&0o100 != 0 {
				n.mode = 0o100755
			}
			if n.content, err = os.ReadFile(path); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is neither file nor folder", path)
		}
		nodes = append(nodes, n)
		return nil
	})
	return nodes, err
}

// product is a package before it is packed.
type product struct {
	ID, Version, Arch, Title string

	root, scripts []node
	date          time.Time
}

func (p product) pack() ([]byte, error) {
	for what, ok := range map[string]bool{
		"id":      regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+$`).MatchString(p.ID),
		"version": regexp.MustCompile(`^[0-9A-Za-z.+-]+$`).MatchString(p.Version),
		"arch":    p.Arch == "arm64" || p.Arch == "x86_64",
		"title":   p.Title != "",
	} {
		if !ok {
			return nil, fmt.Errorf("-%s is missing or none", what)
		}
	}
	payload, err := zip(cpio(p.root, p.date))
	if err != nil {
		return nil, err
	}
	component := []entry{{"Bom", bom(p.root, p.date)}, {"Payload", payload}}
	if p.scripts != nil {
		s, err := zip(cpio(p.scripts, p.date))
		if err != nil {
			return nil, err
		}
		component = append(component, entry{"Scripts", s})
	}
	component = append(component, entry{"PackageInfo", []byte(p.info())})
	return xar([]folder{{"", []entry{{"Distribution", []byte(p.distribution())}}}, {p.ID + ".pkg", component}}, p.date)
}

// kilobytes is what the files take up once they are installed.
func (p product) kilobytes() int {
	n := 0
	for _, f := range p.root {
		n += (len(f.content) + 1023) / 1024
	}
	return n
}

// info is the component's PackageInfo.
func (p product) info() string {
	scripts := ""
	for _, s := range p.scripts {
		if name := filepath.Base(s.path); name == "preinstall" || name == "postinstall" {
			scripts += fmt.Sprintf("\t\t<%s file=\"./%[1]s\"/>\n", name)
		}
	}
	return fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<pkg-info format-version="2" identifier="%s" version="%s" install-location="/" auth="root" overwrite-permissions="false" relocatable="false">
	<payload numberOfFiles="%d" installKBytes="%d"/>
	<scripts>
%s	</scripts>
</pkg-info>
`, p.ID, p.Version, len(p.root), p.kilobytes(), scripts)
}

// distribution is the product's definition ("Distribution Definition XML Schema Reference" of Apple). Without hostArchitectures an
// Apple Silicon Mac would ask for Rosetta.
func (p product) distribution() string {
	return fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<installer-gui-script minSpecVersion="2">
	<title>%s</title>
	<options customize="never" require-scripts="false" hostArchitectures="%s"/>
	<domains enable_localSystem="true"/>
	<choices-outline>
		<line choice="default"/>
	</choices-outline>
	<choice id="default" title="%[1]s">
		<pkg-ref id="%[3]s"/>
	</choice>
	<pkg-ref id="%[3]s" version="%[4]s" installKBytes="%[5]d" auth="root">#%[3]s.pkg</pkg-ref>
</installer-gui-script>
`, escape(p.Title), p.Arch, p.ID, p.Version, p.kilobytes())
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // into a buffer: it cannot fail
	return b.String()
}

func zip(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, bytes.NewReader(b)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// cpio is an archive in the portable format (POSIX.1 pax, "cpio Interchange Format"), all of it root:wheel's.
func cpio(nodes []node, date time.Time) []byte {
	var b bytes.Buffer
	put := func(inode int, mode uint32, links int, mtime int64, name string, content []byte) {
		fmt.Fprintf(&b, "070707%06o%06o%06o%06o%06o%06o%06o%011o%06o%011o%s\x00", 0, inode, mode, 0, 0, links, 0, mtime, len(name)+1, len(content), name)
		b.Write(content)
	}
	for i, n := range nodes {
		links := 1
		if n.dir() {
			links = 2
		}
		put(i+1, n.mode, links, date.Unix(), n.path, n.content)
	}
	put(0, 0, 1, 0, "TRAILER!!!", nil)
	return b.Bytes()
}
