package routes

import (
	"context"
	"errors"
	"fmt"

	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// Watch calls changed soon after any change of a route, address or adapter, and once at the start when the
// subscriptions stand: list in changed, and nothing is missed. Calls never overlap; a burst of changes (20 ms) is one
// call. It returns nil when ctx is done, or an error when Windows gives no subscription.
func Watch(ctx context.Context, changed func()) error { return coalesce(ctx, listen, changed) }

// listen pokes for every notification. Those come on threads of their own, unordered, with half of the row: they say
// "look again", never what there is.
func listen(ctx context.Context, poke func()) (err error) {
	unsubscribe := func(from func() error) { err = errors.Join(err, from()) }

	route, err := winipcfg.RegisterRouteChangeCallback(func(winipcfg.MibNotificationType, *winipcfg.MibIPforwardRow2) { poke() })
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	defer unsubscribe(route.Unregister)
	address, err := winipcfg.RegisterUnicastAddressChangeCallback(func(winipcfg.MibNotificationType, *winipcfg.MibUnicastIPAddressRow) { poke() })
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	defer unsubscribe(address.Unregister)
	adapter, err := winipcfg.RegisterInterfaceChangeCallback(func(winipcfg.MibNotificationType, *winipcfg.MibIPInterfaceRow) { poke() })
	if err != nil {
		return fmt.Errorf("watch adapters: %w", err)
	}
	defer unsubscribe(adapter.Unregister)

	poke()
	<-ctx.Done()
	return nil
}
