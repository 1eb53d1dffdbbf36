from rendered import model, rendered

__all__ = ["model", "rendered"]  # fixtures
