package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls changed after every change of our table, by whomever, until ctx ends; and once at the beginning, when
// it sees everything that follows. It returns early with an error when the kernel had more to tell than it could keep:
// then something may have been missed, and it must be called again.
func (t *Table) Watch(ctx context.Context, changed func()) error {
	var config netlink.Config
	if t.ns != nil {
		config.NetNS = t.ns.FD()
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &config)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() {
		if stop() {
			_ = c.Close()
		}
	}()
	// Room for what a firewall of some thousand rules tells when it is reloaded.
	if err := errors.Join(c.SetReadBuffer(transaction), c.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	changed()
	// Every message about a table carries its name as an attribute, a text with a zero behind it. To look for the
	// bytes is enough: a hit that is none costs one look at the table.
	ours := []byte(TableName + "\x00")
	for {
		messages, err := c.Receive()
		if ctx.Err() != nil {
			return nil // it was closed for that
		}
		if err != nil {
			return fmt.Errorf("watch nftables: %w", err)
		}
		for _, m := range messages {
			if bytes.Contains(m.Data, ours) {
				changed()
				break
			}
		}
	}
}
