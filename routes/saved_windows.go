package routes

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/windows/registry"
)

// exactRow is what Windows knows of a row that somebody made by hand, beside its destination, gateway and adapter.
type exactRow struct {
	Metric uint32 `json:"metric"` // the row's own
}

func exact(e Entry) ([]byte, error) {
	luid, err := adapter(e.Dev)
	if err != nil {
		return nil, err
	}
	row, err := luid.Route(e.Dst, nextHop(e.Route))
	if err != nil {
		return nil, err
	}
	return json.Marshal(exactRow{row.Metric})
}

// takeOut deletes the row by adapter, destination and gateway; TakeOut has just seen that it is this one.
func (s Saved) takeOut() error {
	luid, err := adapter(s.Dev)
	if err == nil {
		err = luid.DeleteRoute(s.Dst, nextHop(s.Route))
	}
	return explain(s.Route, err)
}

func (s Saved) putBack() error {
	var row exactRow
	if err := json.Unmarshal(s.Exact, &row); err != nil {
		return fmt.Errorf("what was saved of it is no row: %w", err)
	}
	luid, err := adapter(s.Dev)
	if err == nil {
		err = luid.AddRoute(s.Dst, nextHop(s.Route), row.Metric)
	}
	return explain(s.Route, err)
}

// persistentKey is where `route -p add` writes: a value for each row, with an empty text.
const persistentKey = `SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\PersistentRoutes`

const maxPersistent = 1 << 10

// PersistentRows are the rows that Windows makes at each start, sorted by name. Nobody says of them by which adapter.
func PersistentRows() (rows []Persistent) {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, persistentKey, registry.QUERY_VALUE)
	if err != nil {
		return nil
	}
	defer k.Close()
	names, _ := k.ReadValueNames(maxPersistent)
	slices.Sort(names)
	for _, name := range names {
		if p, ok := parsePersistent(name); ok {
			rows = append(rows, p)
		}
	}
	return rows
}

func forgetPersistent(names []string) error {
	return eachPersistent(names, func(k registry.Key, name string) error {
		if err := k.DeleteValue(name); !errors.Is(err, registry.ErrNotExist) {
			return err
		}
		return nil
	})
}

func restorePersistent(names []string) error {
	return eachPersistent(names, func(k registry.Key, name string) error { return k.SetStringValue(name, "") })
}

func eachPersistent(names []string, do func(registry.Key, string) error) error {
	if len(names) == 0 {
		return nil
	}
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, persistentKey, registry.QUERY_VALUE|registry.SET_VALUE)
	if err != nil {
		return fmt.Errorf("persistent routes: %w", err)
	}
	defer k.Close()
	for _, name := range names {
		if err := do(k, name); err != nil {
			return fmt.Errorf("persistent route %s: %w", name, err)
		}
	}
	return nil
}
