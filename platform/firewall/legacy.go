package firewall

import (
	"bytes"
	"encoding/binary"
)

// closedLegacy tells whether x_tables' filter table closes forwarding: it has docker's chain, or the policy of FORWARD, whose
// entry stands at the given offset, is DROP. entries is the table as IPT_SO_GET_ENTRIES gives it, of struct ipt_entry
// (112 bytes, the target behind it: 32 bytes of header, then the verdict), in this machine's byte order.
//
// Writing such a table (IPT_SO_SET_REPLACE) is what Admit lacks to open it.
func closedLegacy(entries []byte, policy uint32) bool {
	if bytes.Contains(entries, []byte(dockerUser+"\x00")) { // a chain's head bears its name
		return true
	}
	const verdict, drop = 112 + 32, -1 // -NF_DROP - 1
	at := uint64(policy) + verdict
	if at+4 > uint64(len(entries)) {
		return false
	}
	return int32(binary.NativeEndian.Uint32(entries[at:])) == drop
}
