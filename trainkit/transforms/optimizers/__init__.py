"""Update rules, from gradient descent to matrix rules and curvature."""
