package tunnel

import (
	"encoding/binary"
	"os"
	"runtime"
)

// LatencyDevice takes how long this machine's CPUs may take to wake (s32, us): with 0 they poll rather than sleep, where the
// kernel has a driver for it. It holds as long as the file is open. Source: Documentation/power/pm_qos_interface.rst.
const LatencyDevice = "/dev/cpu_dma_latency"

// MostAwake is how many CPUs are kept awake at most: of a larger machine most would be so for nothing.
const MostAwake = 4

// keepAwake makes p wakeful where that can be had.
func keepAwake(p port) port {
	if runtime.NumCPU() > MostAwake {
		return p
	}
	held, err := holdAwake()
	if err != nil {
		return p
	}
	held.Close()
	return newWakeful(p, func(now bool) {
		if now {
			held, _ = holdAwake() // without it packets go slower, and that is all
		} else {
			held.Close()
		}
	})
}

// holdAwake keeps the CPUs from sleeping until the file is closed.
func holdAwake() (*os.File, error) {
	dev, err := os.OpenFile(LatencyDevice, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dev.Write(binary.NativeEndian.AppendUint32(nil, 0)); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}
