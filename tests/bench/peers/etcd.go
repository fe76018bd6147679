// etcd's own Mutex: go.etcd.io/etcd/client/v3/concurrency. Each holder has a session, that is a lease, of its own; all share one connection.
package main

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

const prefix = "/bench/peers/mutex"

type etcdHolder struct{ mutex *concurrency.Mutex }

func (h etcdHolder) hold(waiting context.Context) error { return h.mutex.Lock(waiting) }
func (h etcdHolder) release() error                     { return h.mutex.Unlock(context.Background()) }

func etcdMutex(endpoint string, waiting, handoffs int) ([]time.Duration, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var holders []holder
	for range waiting + 1 {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(60))
		if err != nil {
			return nil, err
		}
		defer session.Close()
		holders = append(holders, etcdHolder{concurrency.NewMutex(session, prefix)})
	}
	// Whoever waits has a key of its own.
	inLine := func(count int) error {
		for {
			keys, err := client.Get(context.Background(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil || keys.Count == int64(count) {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	return measure(holders, handoffs, inLine)
}
