package main

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// entry is a file of an archive, folder one of its folders; "" is the archive itself.
type (
	entry struct {
		name    string
		content []byte
	}
	folder struct {
		name  string
		files []entry
	}
)

// xar is an archive as xar(1) writes it: a header, a table of contents as compressed XML, and a heap that begins with the table's
// checksum (https://github.com/apple-oss-distributions/xar, xar/include/xar.h.in). SHA-1 is what every macOS reads; it proves no
// origin, only that nothing is broken.
func xar(folders []folder, date time.Time) ([]byte, error) {
	var toc strings.Builder
	heap := make([]byte, sha1.Size)
	id := 0
	open := func(name, kind, mode string) {
		id++
		fmt.Fprintf(&toc, "<file id=\"%d\">\n<name>%s</name>\n<type>%s</type>\n<mode>%s</mode>\n<uid>0</uid>\n<user>root</user>\n<gid>0</gid>\n<group>wheel</group>\n<mtime>%s</mtime>\n",
			id, escape(name), kind, mode, date.Format("2006-01-02T15:04:05Z"))
	}
	for _, d := range folders {
		if d.name != "" {
			open(d.name, "directory", "0755")
		}
		for _, f := range d.files {
			open(f.name, "file", "0644")
			sum := sha1.Sum(f.content)
			fmt.Fprintf(&toc, `<data>
<length>%d</length>
<offset>%d</offset>
<size>%[1]d</size>
<encoding style="application/octet-stream"/>
<archived-checksum style="sha1">%[3]x</archived-checksum>
<extracted-checksum style="sha1">%[3]x</extracted-checksum>
</data>
</file>
`, len(f.content), len(heap), sum)
			heap = append(heap, f.content...)
		}
		if d.name != "" {
			toc.WriteString("</file>\n")
		}
	}
	text := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<xar>
<toc>
<creation-time>%s</creation-time>
<checksum style="sha1">
<offset>0</offset>
<size>%d</size>
</checksum>
%s</toc>
</xar>
`, date.Format("2006-01-02T15:04:05"), sha1.Size, toc.String())

	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	if _, err := z.Write([]byte(text)); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	sum := sha1.Sum(packed.Bytes())
	copy(heap, sum[:])

	out := []byte("xar!")
	out = binary.BigEndian.AppendUint16(out, 28) // of this header
	out = binary.BigEndian.AppendUint16(out, 1)
	out = binary.BigEndian.AppendUint64(out, uint64(packed.Len()))
	out = binary.BigEndian.AppendUint64(out, uint64(len(text)))
	out = binary.BigEndian.AppendUint32(out, 1) // SHA-1
	return append(append(out, packed.Bytes()...), heap...), nil
}
