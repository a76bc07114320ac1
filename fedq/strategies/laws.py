"""FedLAW's two forms of w = gamma sum_n lambda_n w_n, with the gradient of any loss of w, and its optimizers.

Shapes: K clients; theta [K + 1] holds the logits x_1 ... x_K and s. With g = dL/dw and a_n = <g, w_n>, the gradient
with respect to theta needs nothing but a_K. L-numbers are those of docs/fedlaw.md.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Law(ABC):
    """A shrinking factor and weights on the simplex, as functions of theta."""

    theta: F64

    @classmethod
    @abstractmethod
    def start(cls, share_K: F64) -> Self:
        """Where every round begins, for clients with these shares of the examples."""

    @property
    @abstractmethod
    def gamma(self) -> float:
        """The shrinking factor, above 0."""

    @property
    @abstractmethod
    def lambda_K(self) -> F64:
        """The clients' weights: not negative, of sum 1."""

    @abstractmethod
    def gradient(self, a_K: F64) -> F64:
        """dL/dtheta from a_n = <dL/dw, w_n>."""

    def at(self, theta: F64) -> Self:
        """The same form at other values."""
        return replace(self, theta=theta)


@final
class Exp(Law):
    """gamma = e^s and lambda = softmax(x); it starts as FedAvg: gamma = 1, lambda_n = n_n / n."""

    @classmethod
    def start(cls, share_K: F64) -> Self:
        """x_n = log(share of client n), s = 0."""
        return cls(np.append(np.log(share_K), 0.0))  # (L4)

    @property
    def gamma(self) -> float:
        """e^s."""
        return float(np.exp(self.theta[-1]))  # (L2)

    @property
    def lambda_K(self) -> F64:
        """softmax(x)."""
        e_K = np.exp(self.theta[:-1] - self.theta[:-1].max())
        return np.asarray(e_K / e_K.sum())  # (L2)

    def gradient(self, a_K: F64) -> F64:
        """dL/dx_n = gamma lambda_n (a_n - sum_j lambda_j a_j), dL/ds = gamma sum_j lambda_j a_j."""
        gamma, lambda_K = self.gamma, self.lambda_K
        mean = lambda_K @ a_K
        return np.append(gamma * lambda_K * (a_K - mean), gamma * mean)  # (L6)


@final
class Quad(Law):
    """gamma = s^2 and lambda_n = x_n^2 / sum_j x_j^2; it starts with equal weights, whatever the clients hold."""

    @classmethod
    def start(cls, share_K: F64) -> Self:
        """x_n = 1 / sqrt(K), s = 1."""
        return cls(np.append(np.full(len(share_K), len(share_K) ** -0.5), 1.0))  # (L5)

    @property
    def gamma(self) -> float:
        """s^2."""
        return float(self.theta[-1] ** 2)  # (L3)

    @property
    def lambda_K(self) -> F64:
        """x^2 / |x|^2."""
        x_K = self.theta[:-1]
        return x_K**2 / (x_K @ x_K)  # (L3)

    def gradient(self, a_K: F64) -> F64:
        """dL/dx_n = 2 gamma x_n / |x|^2 (a_n - sum_j lambda_j a_j), dL/ds = 2 s sum_j lambda_j a_j."""
        x_K, s = self.theta[:-1], self.theta[-1]
        mean = self.lambda_K @ a_K
        return np.append(2 * self.gamma * x_K / (x_K @ x_K) * (a_K - mean), 2 * s * mean)  # (L7)


LAWS: dict[str, type[Law]] = {"exp": Exp, "quad": Quad}


@final
class Adam:
    """Kingma and Ba 2015, algorithm 1; its first step is lr, whatever the gradient's size."""

    def __init__(self, beta1: float, beta2: float, epsilon: float = 1e-8) -> None:
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._t, self._m, self._v = 0, np.zeros(()), np.zeros(())

    def step(self, g: F64, lr: float) -> F64:
        """-lr m^ / (sqrt(v^) + epsilon)."""
        self._t += 1
        self._m = self._beta1 * self._m + (1 - self._beta1) * g
        self._v = self._beta2 * self._v + (1 - self._beta2) * g * g
        m, v = self._m / (1 - self._beta1**self._t), self._v / (1 - self._beta2**self._t)
        return np.asarray(-lr * m / (np.sqrt(v) + self._epsilon))


@final
class Sgd:
    """Momentum SGD: v <- 0.9 v + g, a step of -lr v."""

    def __init__(self, momentum: float = 0.9) -> None:
        self._momentum, self._v = momentum, np.zeros(())

    def step(self, g: F64, lr: float) -> F64:
        """-lr v."""
        self._v = self._momentum * self._v + g
        return np.asarray(-lr * self._v)
