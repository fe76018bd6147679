// The usual loop of tools that coordinate Jobs: whoever creates the ConfigMap has the lock, and deletes it in the end; all others try again after 1 to 5 s.
package main

import (
	"context"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

const lockName = "bench-lock"

type pollingHolder struct {
	configMaps typedv1.ConfigMapInterface
	requests   *atomic.Int64
	// Those who have tried in vain, and try again.
	waiting *atomic.Int64
}

func (h pollingHolder) hold(waiting context.Context) error {
	lock := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: lockName}}
	for tries := 0; ; tries++ {
		h.requests.Add(1)
		_, err := h.configMaps.Create(context.Background(), lock, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			if tries > 0 {
				h.waiting.Add(-1)
			}
			return err
		}
		if tries == 0 {
			h.waiting.Add(1)
		}
		select {
		case <-time.After(time.Second + rand.N(4*time.Second)):
		case <-waiting.Done():
			return waiting.Err()
		}
	}
}

func (h pollingHolder) release() error {
	h.requests.Add(1)
	return h.configMaps.Delete(context.Background(), lockName, metav1.DeleteOptions{})
}

func pollingLoop(namespace string, waiting, handoffs int) ([]time.Duration, float64, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, 0, err
	}
	config.QPS = -1 // the client's own limit is not what is measured
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, 0, err
	}
	configMaps := client.CoreV1().ConfigMaps(namespace)
	var requests, inVain atomic.Int64
	var holders []holder
	for range waiting + 1 {
		holders = append(holders, pollingHolder{configMaps, &requests, &inVain})
	}
	// Counted from when all are in line for the first time until they are for the last.
	var first, last int64
	inLine := func(count int) error {
		for inVain.Load() < int64(count-1) {
			time.Sleep(time.Millisecond)
		}
		if last = requests.Load(); first == 0 {
			first = last
		}
		return nil
	}
	times, err := measure(holders, handoffs, inLine)
	if err != nil {
		return nil, 0, err
	}
	return times, float64(last-first) / float64(handoffs), nil
}
